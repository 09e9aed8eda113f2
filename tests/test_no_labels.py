"""The benchmark of machines without a fault label: what trains, what is judged, and what counts."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.no_labels import METHODS, built, normal_scores, settings_of, training_bearings
from fml_lightning import MLP, Episode, Examples, FedAvg, Federation, UserError
from fml_lightning.datamodules import Selection


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
