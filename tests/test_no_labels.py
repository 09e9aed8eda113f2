"""The benchmark of machines without a fault label: what trains, what is judged, and what counts."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks.no_labels import (
    METHODS,
    NO_BASELINE,
    built,
    judged,
    judging_episodes,
    markdown,
    normal_scores,
    over_seeds,
    settings_of,
    summary,
    training_bearings,
)
from fml_lightning import MLP, Episode, Examples, FedAvg, Federation, UserError
from fml_lightning.datamodules import Selection
from fml_lightning.datamodules.mfpt import BASELINES, FILES


def real(settings: dict[str, Any]) -> tuple[set[tuple[str, int, int]], set[tuple[str, int, int]]]:
    """End, load and diameter of the real bearings that train, and of those that are judged."""
    fleets = settings["data"]["init_args"]["fleets"].values()
    own = [fleet["init_args"] for fleet in fleets if fleet["class_path"].endswith("CWRU")]
    unseen = [Selection(**each["unseen"]).bearings() for each in own]
    return set().union(*map(training_bearings, own)), set().union(*unseen)


def bearings(end: str, loads: tuple[int, ...], diameters: tuple[int, ...]) -> set[tuple[str, int, int]]:
    return set(product((end,), loads, diameters))


EVERY = (0, 1, 2, 3)
FAN = bearings("fan", (0, 2), (7, 14, 21))


def test_without_real_training_machines_all_are_judged() -> None:
    assert real(settings_of("MAML", "no_labels", "data", tests=False)) == (
        set(),
        bearings("drive", EVERY, (7, 21)),
    )
    both_ends = bearings("drive", EVERY, (7, 14, 21)) | FAN
    assert real(settings_of("MAML", "no_labels", "data", tests=True)) == (set(), both_ends)


@pytest.mark.parametrize("config", ["no_labels_both", "no_labels_sites"])
def test_a_configs_real_machines_train_and_are_not_judged(config: str) -> None:
    for method in METHODS:
        settings = settings_of(method, config, "data", tests=True)
        assert real(settings) == (bearings("drive", EVERY, (7, 21)), bearings("drive", EVERY, (14,)) | FAN)
        built(settings)
    with pytest.raises(UserError, match=f"--config {config}: trains on all .*drive end.* give --judge tests"):
        settings_of("MAML", config, "data", tests=False)


def test_padding_is_no_alarm() -> None:
    federation = Federation(FedAvg(MLP(3, 4)))
    support = Examples(torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.long))
    query = Examples(torch.randn(2, 3, 3), torch.zeros(2, 3, dtype=torch.long))
    every = normal_scores(federation, [Episode(support, query)], adapt=False)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    padded = normal_scores(
        federation, [Episode(support, Examples(query.x, query.y, mask), common_labels=True)], adapt=False
    )
    np.testing.assert_array_equal(padded, every[[0, 1, 3]])


def mfpt_files(folder: Path, baselines: bool) -> None:
    """MFPT's files with noise: faults of 3 s, of the normal bearing 3 s at twice the rate."""
    noise = np.random.default_rng(0)
    names = {name: 48_828 for pair in FILES.values() for name in pair}
    if baselines:
        names |= {name: 97_656 for side in BASELINES.values() for name in side}
    for name, rate in names.items():
        samples = noise.normal(size=3 * rate).astype(np.float32)
        pl.DataFrame({"x": samples}).write_parquet(folder / name)


def mfpt_settings(root: Path) -> dict[str, Any]:
    """The tests' settings with two simulated machines and MFPT alone."""
    settings = settings_of("MAML, centred", "no_labels", str(root), tests=True)
    fleets = settings["data"]["init_args"]["fleets"]
    del fleets["drive"], fleets["fan"]
    fleets["simulated"]["init_args"] |= {"sites": 1, "machines": 2}
    return settings


@pytest.mark.parametrize("baselines", [False, True])
def test_mfpt_is_judged_from_its_own_normal_windows_where_there_are_some(tmp_path: Path, baselines: bool) -> None:
    mfpt_files(tmp_path, baselines)
    made = built(mfpt_settings(tmp_path))
    made.data.setup("fit")
    training = list(made.data.sites["plant1"].val_dataloader())
    site = made.data.unseen["load-300"]
    (episode,) = judging_episodes(site, 0, training)
    (machine,) = site.machines
    # At 12 kHz: 36,000 samples, 18,000 early ones, 9,808 late ones: 5 windows and 1.
    if baselines:
        own = machine.early.x[machine.early.label == 0]
        assert episode.support.tasks == 5
        assert sorted(episode.query.y[0].tolist()) == [0, 2, 3]
        for support, centre in zip(episode.support.x, episode.centre, strict=True):
            for window in (support + centre).numpy():
                assert np.abs(own - window).max(1).min() < 1e-4
    else:
        assert episode.support.tasks == 2
        assert episode.support.y.eq(0).all()
        assert sorted(episode.query.y[0].tolist()) == 6 * [2] + 6 * [3]
        centre = torch.cat([each.centre for each in training]).mean(0)
        everything = np.concatenate([machine.early.x, machine.late.x])
        np.testing.assert_allclose(episode.query.x[1] + centre, everything, atol=1e-5)
        np.testing.assert_array_equal(episode.support.x[1], training[1].support.x[0])
    made.model.learner.eval()
    (part,) = judged(made.model, made.data, adapt=True)
    assert part == ("MFPT" if baselines else NO_BASELINE)


def test_a_class_that_nobody_showed_does_not_count() -> None:
    counts = {"load-50": np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 3, 0], [0, 2, 0, 2]])}
    alarms = {"load-50": np.array([[0, 0], [0, 0], [1, 3], [0, 4]])}
    found = summary({"load-50": counts["load-50"].astype(float)}, {"load-50": alarms["load-50"].astype(float)})
    assert (found["balanced"], found["worst"], found["faults_found"]) == (62.5, 62.5, 87.5)
    results = over_seeds([{when: {"MFPT": found} for when in ("before", "after")}])
    assert results["MFPT"]["after"]["confusion"] == [[None] * 4, [None] * 4, [25, 0, 75, 0], [0, 50, 0, 50]]
    assert "| MFPT | rule | 62.5 | 62.5 ± 0.0 | 62.5 | –, –, 75, 50 | – | 87.5 |" in markdown({"rule": results})
