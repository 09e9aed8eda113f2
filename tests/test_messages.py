"""Messages between server and sites: what is asked and answered comes back; a stranger's fields are checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from fml_lightning import SiteFailure, SiteUpdate, Work
from fml_lightning.executors.messages import Answered, Asked, answer, outcome_of, refusal, request, work_of
from fml_lightning.executors.wire import WireError, pack, unpack

PARAMS = {"net.weight": torch.tensor([[1.0, 2.0]]), "rate": torch.tensor(0.5, dtype=torch.float64)}
ASKED = Asked(
    Work("fit", 3, PARAMS, 2**64 - 1, 5, "0123abcd"),
    {"learner": "MAML"},
    stamp=1_790_000_000_000_000_000,
    deadline=60.0,
    stateful=True,
    revisitable=frozenset({0, 2}),
)
TOLD: dict[str, Any] = {"preprocessing": {"sample_rate": 20_000.0}, "classes": ("sound", "worn")}


def head_of(message: bytes, **changed: Any) -> dict[str, Any]:
    return {**unpack(message)[0], **changed}


def test_a_request_comes_back() -> None:
    got = work_of(*unpack(request(ASKED)))
    assert replace(got, work=replace(got.work, params={})) == replace(ASKED, work=replace(ASKED.work, params={}))
    assert all(torch.equal(got.work.params[name], p) for name, p in PARAMS.items())


def test_an_answer_comes_back_under_the_name_of_whoever_was_asked() -> None:
    update = SiteUpdate("what it calls itself", 3, PARAMS, np.int64(7), {"train/loss": 0.25}, 1.5, 40)  # type: ignore[arg-type]
    got = outcome_of(*unpack(answer(ASKED, update, **TOLD)), "plant1", 3)
    assert isinstance(got, Answered)
    assert isinstance(got.outcome, SiteUpdate)
    assert (got.stamp, got.run, got.verb, got.preprocessing) == (
        ASKED.stamp,
        "0123abcd",
        "fit",
        TOLD["preprocessing"],
    )
    assert got.classes == ("sound", "worn")
    assert torch.equal(got.outcome.delta["net.weight"], PARAMS["net.weight"])
    plain = replace(got.outcome, delta={})
    assert plain == SiteUpdate("plant1", 3, {}, 7, {"train/loss": 0.25}, 1.5, 40)


@pytest.mark.parametrize("flags", [{}, {"permanent": True}, {"not_yet": True}])
def test_a_failure_comes_back(flags: dict[str, bool]) -> None:
    failure = SiteFailure("plant1", 3, "too few windows", 0.5, **flags)
    got = outcome_of(*unpack(answer(ASKED, failure, **TOLD, newest=12)), "plant1", 3)
    assert isinstance(got, Answered)
    assert (got.outcome, got.newest) == (failure, 12)


def test_a_refusal_is_a_failure_for_good() -> None:
    assert outcome_of(*unpack(refusal("update it")), "plant1", 4) == SiteFailure(
        "plant1", 4, "update it", permanent=True
    )


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"version": 2}, "expected version 1, got 2; install the same version"),
        ({"version": None}, "expected version 1, got none"),
        ({"version": "1" * 10_000}, "expected version 1, got none"),
        ({"kind": "update"}, "expected work, got another kind"),
        ({"kind": ["work"]}, "expected work, got another kind"),
        ({"verb": "delete"}, "verb"),
        ({"round": -1}, "round"),
        ({"round": True}, "round"),
        ({"round": 1.5}, "round"),
        ({"run": "../../etc"}, "run"),
        ({"run": "a\n"}, "run"),
        ({"stamp": "1"}, "stamp"),
        ({"deadline": 0}, "deadline"),
        ({"learner": {"a": 1}}, "learner"),
        ({"revisitable": [-1]}, "revisitable"),
        ({"stateful": 1}, "stateful"),
    ],
)
def test_a_stranger_s_request_is_refused(changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(WireError, match=fault) as refused:
        work_of(head_of(request(ASKED), **changed), {})
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"version": 0}, "expected version 1, got 0"),
        ({"kind": "work"}, "expected update or failure, got another kind"),
        ({"round": "3"}, "round"),
        ({"metrics": {"a": "1"}}, "metrics"),
        ({"metrics": [1]}, "metrics"),
        ({"seconds": None}, "seconds"),
        ({"reason": 3}, "reason"),
        ({"permanent": "yes"}, "permanent"),
        ({"classes": "ab"}, "classes"),
        ({"preprocessing": []}, "preprocessing"),
        ({"newest": -1}, "newest"),
    ],
)
def test_a_stranger_s_answer_is_refused(changed: dict[str, Any], fault: str) -> None:
    update = SiteUpdate("plant1", 3, PARAMS, 7)
    with pytest.raises(WireError, match=fault):
        outcome_of(head_of(answer(ASKED, update, **TOLD), **changed), {}, "plant1", 3)


def test_fields_that_nobody_knows_yet_are_passed_over() -> None:
    head = head_of(request(ASKED), masked=True)
    assert work_of(head, {}).stamp == ASKED.stamp


def test_a_reason_of_msgpack_s_own_is_short() -> None:
    message = pack({"kind": "refusal", "version": 1, "reason": msgspec.msgpack.encode("x" * 5000)})
    with pytest.raises(WireError) as refused:
        outcome_of(*unpack(message), "plant1", 0)
    assert len(str(refused.value)) < 300
