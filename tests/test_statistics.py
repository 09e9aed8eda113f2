"""Sums and statistics in their plain form come back bit for bit, and what no rows can have is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fml_lightning import SiteUpdate, UserError, Work
from fml_lightning.executors.kept_statistics import KEY, keep_statistics, kept_statistics
from fml_lightning.executors.messages import Answered, Asked, answer, outcome_of, request, work_of
from fml_lightning.executors.wire import WireError, pack, unpack
from fml_lightning.federation.batch import Sites
from fml_lightning.federation.gathering import statistics_of
from fml_lightning.federation.outcomes import Limits, sort_outcomes
from fml_lightning.preprocessing import Preprocessing, Standardize, Statistics
from fml_lightning.preprocessing.statistics import Sums

ROWS = np.array([[1.0, 7.0], [3.0, 7.0], [8.0, 0.1]])
SUMS = Standardize().sums(ROWS, ())
WORK = Work("sums", 0, {}, 0, run="r1")
FLOATS = st.floats(-1e30, 1e30)


def asked(**of_work: Any) -> Asked:
    return Asked(replace(WORK, **of_work), {"learner": "MAML"}, 5, 60.0)


def same(one: Sums, other: Sums) -> bool:
    ours, theirs = one.arrays(), other.arrays()
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


@given(st.lists(st.tuples(st.floats(-90, 90), FLOATS, FLOATS), max_size=9), st.floats(0.5, 7))
def test_sums_cross_the_wire_bit_for_bit(rows: list[tuple[float, ...]], width: float) -> None:
    sums = Standardize("channels", "load", width).sums(np.array(rows).reshape(-1, 3), ("load", "x", "y"))
    update = SiteUpdate("plant1", 0, {}, 0, sums=sums)
    came = outcome_of(*unpack(answer(asked(), update, preprocessing={}, classes=())), "plant1", 0)
    assert isinstance(came, Answered)
    assert isinstance(came.outcome, SiteUpdate)
    assert came.outcome.sums is not None
    assert came.outcome.delta == {}
    assert same(came.outcome.sums, sums)
    assert came.outcome.sums.fault(1e9) is None


def test_a_site_that_needs_none_tells_none() -> None:
    update = SiteUpdate("plant1", 0, {}, 0)
    came = outcome_of(*unpack(answer(asked(), update, preprocessing={}, classes=())), "plant1", 0)
    assert isinstance(came, Answered)
    assert came.outcome == update


STATISTICS = Statistics([[0.1, 1 / 3], [1e-300, -7.0]], [[1.0, 2.0], [1e300, 0.3]], [12.5])


def test_statistics_come_back_from_requests_checkpoints_and_json_bit_for_bit() -> None:
    assert Statistics.from_arrays(STATISTICS.arrays()) == STATISTICS
    assert work_of(*unpack(request(asked(verb="fit", statistics=STATISTICS)))).work.statistics == STATISTICS
    assert work_of(*unpack(request(asked(verb="fit")))).work.statistics is None
    checkpoint: dict[str, Any] = {}
    keep_statistics(checkpoint, STATISTICS)
    assert all(type(tensor) is torch.Tensor for tensor in checkpoint[KEY].values())
    assert kept_statistics(checkpoint) == STATISTICS
    keep_statistics(checkpoint, None)
    assert kept_statistics(checkpoint) is None
    assert kept_statistics({}) is None  # of an earlier version
    standardize = Standardize("channels", "load", statistics=STATISTICS)
    preprocessing = Preprocessing(channels=("load", "x", "y"), standardize=standardize)
    described = json.loads(json.dumps(preprocessing.describe()))
    assert Preprocessing.from_description(described).standardize == standardize


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": np.array([[np.nan, 0.0]])},
        {"deviation": np.array([[0.0, 1.0]])},
        {"deviation": np.array([[-1.0, 1.0]])},
        {"mean": np.zeros((1, 3))},
        {"borders": np.array([2.0])},
        {"mean": np.zeros(2)},
        {"mean": np.zeros((1, 2), np.float32)},
        {"more": np.zeros(1)},
    ],
)
def test_statistics_that_are_none_are_refused_in_a_sentence(changed: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(UserError, match=r"^Statistics.*expected"):
        Statistics.from_arrays({**Statistics([[0.0, 1.0]], [[1.0, 1.0]]).arrays(), **changed})
    head, params = unpack(request(asked(verb="fit")))
    told = {name: array.tolist() for name, array in changed.items()}
    if "more" not in told and changed.get("mean", np.zeros((1, 3))).ndim == 2:
        told = {"mean": [[0.0, 1.0]], "deviation": [[1.0, 1.0]], **told}
    if changed.get("mean", np.zeros(0)).dtype != np.float32:
        with pytest.raises(WireError):
            work_of({**head, "statistics": told}, params)


def hostile(**changed: Any) -> dict[str, torch.Tensor]:
    told = {**SUMS.arrays(), **changed}
    return {name: torch.from_numpy(np.asarray(array)) for name, array in told.items()}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"total": np.array([[np.nan, 1.0]])}, "expected finite sums"),
        ({"squares": np.array([[np.inf, 1.0]])}, "expected finite sums"),
        ({"width": np.array(np.nan)}, "expected finite sums"),
        ({"count": np.array([-3.0])}, "expected whole counts of 1 to 10000000000 rows"),
        ({"count": np.array([0.0])}, "expected whole counts"),
        ({"count": np.array([2.5])}, "expected whole counts"),
        ({"count": np.array([1e15])}, "expected whole counts"),
        ({"width": np.array(0.0)}, "cells of a width above 0"),
        ({"cells": np.array([2**41])}, "cells of a width above 0, within the range of float32"),
        ({"squares": np.array([[-1.0, 1.0]])}, "sums of squares of at least 0"),
        ({"squares": np.array([[1e80, 1e80]])}, "sums of squares of at least 0, within the range of float32"),
        ({"total": np.array([[1e9, 1.0]])}, "whose square is at most the count times the sum of squares"),
        ({"total": np.zeros((1, 0)), "squares": np.zeros((1, 0))}, "at least one column"),
        ({"total": np.zeros((1, 3))}, "sums of every column, for each cell, got other shapes"),
        ({"count": np.array([1.0, 1.0])}, "got other shapes"),
        ({"cells": np.array([[0]])}, "sums.cells: expected 1 axes of i8"),
        ({"count": np.array([3], np.int64)}, "sums.count: expected 1 axes of f8"),
        ({"total": np.zeros((1, 2), np.float32)}, "sums.total: expected 2 axes of f8"),
        ({"windows": np.zeros((5, 5))}, "sums: expected the arrays cells, count, total, squares, width"),
        (
            {
                "cells": np.array([0, 0]),
                "count": np.ones(2),
                "total": np.zeros((2, 2)),
                "squares": np.zeros((2, 2)),
            },
            "expected each cell once",
        ),
    ],
)
def test_sums_that_no_rows_have_cost_their_site_the_turn(changed: dict[str, Any], fault: str) -> None:
    message = answer(asked(), SiteUpdate("plant1", 0, {}, 0), preprocessing={}, classes=())
    head = unpack(message)[0]
    try:
        came = outcome_of(*unpack(pack(head, hostile(**changed))), "plant1", 0)
    except WireError as error:
        said = str(error)
    else:
        assert isinstance(came, Answered)
        updates, (failure,) = sort_outcomes([came.outcome], WORK, ["plant1"], "accuracy", Limits())
        assert updates == []
        said = failure.reason
    assert fault in said
    assert "\n" not in said


@pytest.mark.parametrize("sums", [7, "all", {"cells": {}}, [SUMS]])
def test_what_is_no_sums_is_a_failure(sums: Any) -> None:
    _, (failure,) = sort_outcomes(
        [SiteUpdate("plant1", 0, {}, 0, sums=sums)], WORK, ["plant1"], "accuracy", Limits()
    )
    assert "sums: expected sums, got a" in failure.reason


def test_sums_are_added_in_the_order_of_names_and_weighed_as_the_server_says() -> None:
    """0.1 + 0.2 + 0.3 ≠ 0.3 + 0.2 + 0.1; rows of c count twice."""

    class Site:
        weight = 1.0

    class Heavy(Site):
        weight = 2.0

    sites: Sites = {"c": Heavy(), "a": Site(), "b": Site()}  # type: ignore[dict-item]
    rows = {"a": 0.1, "b": 0.2, "c": 0.3}
    updates = [SiteUpdate(n, 0, {}, 0, sums=Standardize().sums(np.array([[rows[n]]]), ())) for n in sites]
    statistics, whose, failures = statistics_of(updates, sites)
    assert statistics.mean == (((0.1 + 0.2 + 0.6) / 4,),)
    assert whose == ["a", "b", "c"]
    assert failures == []
    assert statistics_of(updates[::-1], sites)[0] == statistics


@pytest.mark.parametrize(
    ("odd", "fault"),
    [
        (Standardize().sums(np.ones((3, 5)), ()), "sums of 2 columns .* as a has, got those of 5 columns"),
        (Standardize(width=2.0).sums(ROWS, ()), "cells of width 1, as a has, got those of .* width 2"),
        (None, "as a has, got none, as it gives statistics of its own or standardizes nothing"),
    ],
)
def test_a_site_that_differs_from_most_is_left_out(odd: Sums | None, fault: str) -> None:
    class Site:
        pass

    sites: Sites = dict.fromkeys("abz", Site())  # type: ignore[arg-type]
    told = {"a": SUMS, "b": SUMS, "z": odd}
    statistics, whose, (failure,) = statistics_of(
        [SiteUpdate(n, 0, {}, 0, sums=s) for n, s in told.items()], sites
    )
    assert statistics == SUMS.statistics()
    assert whose == ["a", "b"]
    assert failure.site == "z"
    assert failure.permanent
    assert re.search(fault, failure.reason)


def test_a_site_without_rows_adds_nothing() -> None:
    class Site:
        pass

    empty = Standardize().sums(np.empty((0, 2)), ())
    sites: Sites = dict.fromkeys("ab", Site())  # type: ignore[arg-type]
    updates = [SiteUpdate("a", 0, {}, 0, sums=empty), SiteUpdate("b", 0, {}, 0, sums=SUMS)]
    assert statistics_of(updates, sites)[0] == SUMS.statistics()
    with pytest.raises(UserError, match="no training site has recorded an early window"):
        statistics_of(updates[:1], sites)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda s: s, ""),
        (lambda s: replace(s, borders=[13.0]), "other operating conditions"),
        (lambda s: Statistics([[0.0]], [[1.0]]), "1 columns, not 2"),
        (lambda s: replace(s, mean=[[0.1, 1.0], [0, -7.0]]), "a mean by up to 0.33 and a deviation by up to 0"),
    ],
)
def test_a_difference_is_said_in_words(other: Callable[[Statistics], Statistics], said: str) -> None:
    assert other(STATISTICS).difference(STATISTICS).startswith(said)
    assert bool(other(STATISTICS).difference(STATISTICS)) == bool(said)
