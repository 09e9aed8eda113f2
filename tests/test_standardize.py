"""Standardization: from sums, by operating condition, of early parts of training sites alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fml_lightning import MLP, UserError
from fml_lightning.datamodules import Episodes, Fleet, Recording, SiteRecordings
from fml_lightning.preprocessing import (
    Concat,
    Features,
    LogBandPowers,
    Moments,
    Preprocessing,
    RawWindows,
    Standardize,
    Statistics,
    Trend,
    Windowing,
)
from fml_lightning.preprocessing.statistics import Sums

RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


class Plants(Fleet):
    """Two training sites and an unseen one, of one machine each; two channels and the load."""

    classes = ("good", "bad")

    def __init__(
        self,
        preprocessing: Preprocessing,
        values: dict[str, NDArray[np.float32]],
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        super().__init__(preprocessing, episodes)
        self.values = values

    def read(self) -> Iterator[SiteRecordings]:
        for name, values in self.values.items():
            recordings = [Recording(name, "any", label, 10.0, values + label) for label in (0, 1)]
            yield SiteRecordings(name, name == "unseen", [replace(r, inputs={"load": 1.0}) for r in recordings])


def plants() -> dict[str, NDArray[np.float32]]:
    return {name: normal(2, 80) * [[1], [9]] + [[5], [-3]] for name in ("north", "south", "unseen")}


def test_mean_and_deviation_by_hand() -> None:
    """1, 3 → mean 2, deviation 1; 7, 7 is constant: only centred."""
    standardize = Standardize()
    rows = np.array([[1, 7], [3, 7]], np.float32)
    fitted = standardize.fitted(standardize.sums(rows, ()))
    assert fitted.statistics == Statistics([[2.0, 7.0]], [[1.0, 1.0]])
    assert fitted(np.array([[4, 9]], np.float32), ()).tolist() == [[2.0, 2.0]]


def test_sums_of_sites_add_up_to_the_statistics_of_all_their_rows() -> None:
    standardize = Standardize("channels", "altitude", 2.0)
    sites = [
        np.hstack([RNG.choice([0, 10, 42], (50, 1)) + normal(50, 1) / 100, normal(50, 3) + 200]) for _ in "ab"
    ]
    names = ("altitude", "x", "y", "z")
    together = standardize.fitted(standardize.sums(np.concatenate(sites), names)).statistics
    apart = standardize.fitted(sum((standardize.sums(rows, names) for rows in sites), start=Sums())).statistics
    assert together
    assert apart
    assert together.borders == apart.borders == (5.0, 26.0)
    np.testing.assert_allclose(apart.mean, together.mean)
    np.testing.assert_allclose(apart.deviation, together.deviation, rtol=1e-6)
    rows = np.concatenate(sites)
    high = rows[rows[:, 0] > 26, 1:].astype(np.float64)
    np.testing.assert_allclose(apart.mean[2], high.mean(0), rtol=1e-9)
    np.testing.assert_allclose(apart.deviation[2], high.std(0), rtol=1e-5)


def test_each_condition_is_standardized_by_its_own_and_a_new_one_by_the_nearest() -> None:
    """Condition 0: 1 and 3; condition 10: 100 and 300. The column that tells it is left out."""
    standardize = Standardize("channels", "load")
    rows = np.array([[0, 1], [0, 3], [10, 100], [10, 300]], np.float32)
    fitted = standardize.fitted(standardize.sums(rows, ("load", "x")))
    assert fitted(rows, ("load", "x")).tolist() == [[-1.0], [1.0], [-1.0], [1.0]]
    assert fitted(np.array([[4, 3], [6, 300], [99, 300]], np.float32), ("load", "x")).tolist() == [[1], [1], [1]]


def test_neighbouring_cells_are_one_condition() -> None:
    standardize = Standardize("channels", "speed", 1.0)
    rows = np.array([[0.4, 1], [0.6, 3], [1.6, 5]], np.float32)  # cells 0, 1, 2
    statistics = standardize.fitted(standardize.sums(rows, ("speed", "x"))).statistics
    assert statistics
    assert statistics.borders == ()
    assert statistics.mean == ((3.0,),)
    assert statistics.deviation == ((pytest.approx(np.sqrt(8 / 3)),),)


def preprocessings() -> list[Preprocessing]:
    return [
        Preprocessing(Windowing(10, 5), Moments(), ("x", "y"), 10.0, standardize=Standardize()),
        Preprocessing(Windowing(10, 5), Moments(), ("x", "y"), 10.0, standardize=Standardize("channels")),
        Preprocessing(None, RawWindows(), ("x", "y"), 10.0, standardize=Standardize()),
        Preprocessing(Windowing(10, 5), RawWindows(), ("x", "y"), standardize=Standardize("channels", "x", 0.1)),
        Preprocessing(Windowing(10, 5), Moments(), ("x", "y"), inputs=("load",), standardize=Standardize()),
    ]


@pytest.mark.parametrize("preprocessing", preprocessings())
def test_neither_unseen_sites_nor_late_data_change_a_statistic(preprocessing: Preprocessing) -> None:
    """The check for leaks: whatever is late or unseen becomes something else, and no statistic does."""
    values = plants()
    fleet = Plants(preprocessing, values)
    fleet.setup("fit")
    assert fleet.preprocessing.standardize
    assert fleet.preprocessing.standardize.statistics
    others = {name: own.copy() for name, own in values.items()}
    others["unseen"] = others["unseen"] * 100 + 7
    for name in ("north", "south"):
        others[name][:, 40:] = normal(2, 40) * 50 - 20  # the early half is 40 samples
    changed = Plants(preprocessing, others)
    changed.setup("fit")
    assert changed.preprocessing.standardize == fleet.preprocessing.standardize
    early = {name: own.copy() for name, own in values.items()}
    early["south"][:, :40] += 1
    moved = Plants(preprocessing, early)
    moved.setup("fit")
    assert moved.preprocessing.standardize != fleet.preprocessing.standardize


def test_early_features_of_training_sites_have_mean_0_and_deviation_1() -> None:
    fleet = Plants(preprocessings()[0], plants())
    fleet.setup("fit")
    early = np.concatenate([site.machines[0].early.x for site in fleet.sites.values()])
    np.testing.assert_allclose(early.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(early.std(0), 1, atol=1e-5)
    raw = Plants(replace(preprocessings()[0], standardize=None), fleet.values)
    raw.setup("fit")
    statistics = fleet.unseen["unseen"].preprocessing.standardize
    assert statistics
    assert statistics.statistics
    late = raw.unseen["unseen"].machines[0].late.x
    expected = (late - statistics.statistics.mean[0]) / statistics.statistics.deviation[0]
    np.testing.assert_allclose(fleet.unseen["unseen"].machines[0].late.x, expected, atol=1e-5)


def test_raw_windows_that_overlap_stay_views_of_the_standardized_samples() -> None:
    fleet = Plants(
        Preprocessing(Windowing(10, 1), RawWindows(), ("x", "y"), standardize=Standardize("channels")), plants()
    )
    fleet.setup("fit")
    windows = fleet.sites["north"].machines[0].early
    assert windows.shape[1:] == (2, 10)
    assert all(chunk.strides[0] == chunk.strides[-1] == 4 for chunk in windows.chunks)


def test_a_site_alone_needs_statistics_and_takes_those_that_are_given() -> None:
    values = plants()
    fleet = Plants(preprocessings()[0], values)
    with pytest.raises(UserError, match=r"not known here; set up the whole fleet, or give standardize.statistics"):
        _ = fleet.site("unseen").machines
    fleet.setup("fit")
    standardize = fleet.preprocessing.standardize
    assert standardize
    assert standardize.statistics
    told = Statistics(**json.loads(json.dumps(asdict(standardize.statistics))))
    alone = Plants(replace(preprocessings()[0], standardize=replace(standardize, statistics=told)), values)
    copied = pickle.loads(pickle.dumps(alone.site("unseen")))
    np.testing.assert_array_equal(copied.machines[0].late.x, fleet.unseen["unseen"].machines[0].late.x)


def test_an_input_tells_the_condition_of_features() -> None:
    preprocessing = replace(preprocessings()[4], standardize=Standardize("features", "load"))
    fleet = Plants(preprocessing, plants())
    fleet.setup("fit")
    assert (
        fleet.sites["north"].machines[0].early.shape[1] == 4
    )  # two moments of two channels; the load is left out


def test_what_cannot_be_standardized_is_refused() -> None:
    with pytest.raises(UserError, match=r"one of the channels \(x, y\), got 'z'"):
        Preprocessing(channels=("x", "y"), standardize=Standardize("channels", "z"))
    with pytest.raises(UserError, match=r"one of the inputs \(none are named\), got 'load'"):
        Preprocessing(standardize=Standardize("features", "load"))
    with pytest.raises(UserError, match="expected width > 0"):
        Standardize(width=0.0)
    with pytest.raises(UserError, match="no training site has recorded an early window"):
        Standardize().fitted(Sums())
    with pytest.raises(UserError, match="10001 cells of width 1; raise width"):
        Standardize("channels", "t").sums(np.stack([np.arange(10_001.0)] * 2, axis=1), ("t", "x"))
    with pytest.raises(UserError, match="expected 1 features, as the statistics have, got 2"):
        Standardize(statistics=Statistics([[0.0]], [[1.0]]))(normal(3, 2), ())
    with pytest.raises(UserError, match="deviations above 0"):
        Statistics([[0.0]], [[0.0]])
    with pytest.raises(UserError, match="mean and a deviation of every column for each of 2 conditions"):
        Statistics([[0.0]], [[1.0]], [3.0])
    with pytest.raises(UserError, match=r"set standardize.of: channels"):
        Plants(replace(preprocessings()[0], features=RawWindows()), plants()).setup("fit")
    broken = plants()
    broken["south"][0, 3] = np.nan
    for preprocessing in preprocessings()[:2]:
        with pytest.raises(UserError, match=r"south, any: the recording holds NaN"):
            Plants(preprocessing, broken).setup("fit")


def test_moments_and_trend_by_hand() -> None:
    """0, 2, 4, 6: mean 3, deviation √5; a line that rises by 2 a sample, so by 8 over the window."""
    windows = np.array([[0, 2, 4, 6], [1, 1, 1, 1]], np.float32)
    np.testing.assert_allclose(Moments()(windows, 1.0), [[3, np.sqrt(5)], [1, 0]], rtol=1e-6)
    np.testing.assert_allclose(Trend()(windows, 1.0), [[3, 8], [1, 0]], atol=1e-6)
    noise = normal(1, 30)
    slope = np.polyfit(np.arange(30), noise[0].astype(np.float64), 1)[0]
    assert Trend()(noise, 5.0)[0, 1] == pytest.approx(30 * slope, abs=1e-5)
    with pytest.raises(UserError, match="at least 2 samples"):
        Trend()(windows[:, :1], 1.0)


@pytest.mark.parametrize("features", [Moments(), Trend(), Concat([Moments(), LogBandPowers(8)])])
def test_a_window_with_a_hole_has_no_features(features: Features) -> None:
    windows = normal(3, 32)
    windows[0, 3], windows[1, 4] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        table = features(windows, 50.0)
    assert np.isnan(table[:2]).all()
    assert np.isfinite(table[2]).all()
    assert len(features.columns(32, 50.0)) == table.shape[1]


@pytest.mark.parametrize("of", ["channels", "features"])
def test_anomalies_are_judged_by_the_mean_of_normal_windows(of: Literal["channels", "features"]) -> None:
    """Normal samples are all 3 and faulty ones all 4 (`Plants` adds the label): means of training sites are 3."""
    values = {name: np.full((1, 80), 3, np.float32) for name in ("north", "unseen")}
    features = RawWindows() if of == "channels" else Moments()
    for episodes, mean in ((Episodes(shots=2, normal="good"), 3.0), (Episodes(shots=2), 3.5)):
        fleet = Plants(Preprocessing(Windowing(10, 10), features, standardize=Standardize(of)), values, episodes)
        fleet.setup("fit")
        standardize = fleet.preprocessing.standardize
        assert standardize
        assert standardize.statistics
        assert standardize.statistics.mean[0][0] == mean


def test_dropout_of_the_input_is_for_training_only() -> None:
    torch.manual_seed(0)
    net = MLP(4, 1, hidden=(), norm_input=False, dropout=0.5)
    x = torch.ones(200, 4)
    assert len(net(x).unique()) > 1
    assert len(net.eval()(x).unique()) == 1
    assert not any(isinstance(layer, torch.nn.Dropout) for layer in MLP(4, 1))
    with pytest.raises(UserError, match=r"dropout in \[0, 1\), got 1.0"):
        MLP(4, 1, dropout=1.0)
