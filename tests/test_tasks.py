"""How tasks are drawn from a machine's windows: which are support, and which are judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fml_lightning import UserError
from fml_lightning.datamodules import Episodes, MachineWindows, Recording, Windows
from fml_lightning.datamodules.machine_windows import cut_machines
from fml_lightning.datamodules.site import SiteData
from fml_lightning.datamodules.stacked_tasks import training_episodes
from fml_lightning.datamodules.tasks import (
    by_condition,
    evaluation_task,
    own_orders,
    prediction_task,
    training_task,
)
from fml_lightning.preprocessing import Preprocessing, RawWindows, Windowing


def windows(*counts: int, first: int = 0) -> Windows:
    """So many windows of each class, whose one feature numbers them in time; the classes take turns."""
    label = np.array(sorted((turn, k) for k, count in enumerate(counts) for turn in range(count)))[:, 1]
    number = np.arange(first, first + len(label))
    parts = [
        Windows.of([np.array([[n]], np.float32)], int(k), "any", np.array([n]), 1.0, int(n) // 3)
        for n, k in zip(number, label, strict=True)
    ]
    return Windows.join(parts)


MACHINE = MachineWindows("m", windows(8, 8, 8), windows(4, 4, 4, first=100))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_first_windows_of_each_class_are_support() -> None:
    task = evaluation_task(MACHINE, Episodes(shots=2, support="first"), rng())
    assert sorted(task.support.x[:, 0]) == [0, 1, 2, 3, 4, 5]
    assert len(task.query) == 12
    task = training_task(MACHINE, Episodes(shots=2, queries=3, support="first"), rng())
    assert sorted(task.support.x[:, 0]) == [0, 1, 2, 3, 4, 5]
    assert not set(task.query.x[:, 0]) & set(range(6))


def test_windows_as_they_come_have_their_natural_frequencies() -> None:
    rare = MachineWindows("m", windows(90, 10), windows(9, 1, first=200))
    episodes = Episodes(shots=20, queries=30, of="as they come", permute_labels=False)
    tasks = [training_task(rare, episodes, np.random.default_rng(seed)) for seed in range(200)]
    assert all((len(task.support), len(task.query)) == (20, 30) for task in tasks)
    share = np.mean([task.support.label.mean() for task in tasks])
    assert abs(share - 0.1) < 0.02  # 4,000 draws without replacement: a standard deviation below .005
    first = evaluation_task(rare, Episodes(shots=4, of="as they come", support="first"), rng())
    assert first.support.x[:, 0].tolist() == [0, 1, 2, 3]


def test_support_of_normal_windows_is_judged_on_every_class() -> None:
    episodes = Episodes(shots=3, queries=2, of="normal only", normal=1, permute_labels=False)
    task = training_task(MACHINE, episodes, rng())
    assert task.support.label.tolist() == [1, 1, 1]
    assert np.bincount(task.query.label).tolist() == [2, 2, 2]
    assert not set(task.support.x[:, 0]) & set(task.query.x[:, 0])
    task = evaluation_task(MACHINE, episodes, rng())
    assert task.support.label.tolist() == [1, 1, 1]
    assert np.bincount(task.query.label).tolist() == [4, 4, 4]


def test_whole_recordings_are_support() -> None:
    """K engines that ran to failure: all windows of a recording are on one side."""
    episodes = Episodes(shots=2, queries=3, of="as they come", per="recording", permute_labels=False)
    task = training_task(MACHINE, episodes, rng())
    assert len(task.support) == 2 * 3
    assert len(task.query) == 3 * 3
    assert not set(task.support.recording) & set(task.query.recording)


def test_targets_that_are_numbers_reach_the_episode() -> None:
    recordings = [Recording("m", "c", float(k), 1.0, np.full(40, k, np.float32)) for k in range(4)]
    machines = cut_machines(recordings, Preprocessing(Windowing(5, 5), RawWindows()), 0.5)
    (episode,) = training_episodes(machines, Episodes(shots=3, queries=4, tasks=2, batches=1, centre=False), rng())
    assert episode.support.y.is_floating_point()
    np.testing.assert_array_equal(episode.support.y, episode.support.x[..., 0])
    np.testing.assert_array_equal(episode.query.y, episode.query.x[..., 0])


def test_an_own_order_of_labels_is_a_machines_own_and_stays() -> None:
    machines = [MachineWindows(name, windows(8, 8, 8), windows(4, 4, 4)) for name in ("a", "b", "c", "d")]
    once, again = own_orders(machines), own_orders(machines)
    orders = [tuple(machine.early.label[:3].tolist()) for machine in once]
    assert orders == [tuple(machine.late.label[:3].tolist()) for machine in again]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(set(orders)) > 1


def test_a_machine_under_each_condition_is_a_task_of_its_own() -> None:
    recordings = [Recording("m", c, k, 1.0, np.full(40, k, np.float32)) for c in ("idle", "full") for k in (0, 1)]
    machines = by_condition(cut_machines(recordings, Preprocessing(Windowing(5, 5), RawWindows()), 0.5))
    assert [machine.name for machine in machines] == ["m, full", "m, idle"]
    assert all(set(machine.early.label) == {0, 1} for machine in machines)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"of": "normal only"}, "normal only needs permute_labels: false"),
        (
            {"of": "normal only", "permute_labels": False},
            "normal only needs normal, the class of normal operation",
        ),
        ({"of": "as they come", "normal": 0}, "takes windows of every class; leave normal out"),
        ({"of": "as they come", "ways": 2}, "expected ways with of: each class only"),
        ({"own_order": True, "normal": 0, "shots": 2}, "expected own_order: false where a class is normal"),
        ({"early_share": 1.0}, "expected 0 < early_share < 1, got 1.0"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Episodes(**options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"shots": 9}, r"m: expected at least 9 early windows of every class .*, class 0 has 8"),
        ({"shots": 25, "of": "as they come"}, "expected at least 25 early windows .* there are 24"),
        ({"shots": 9, "of": "as they come", "per": "recording"}, "at least 9 early recordings .* there are 8"),
    ],
)
def test_too_little_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        evaluation_task(MACHINE, Episodes(**options), rng())


def test_a_machines_own_order_keeps_the_names_of_its_classes_under_every_condition() -> None:
    recordings = [
        Recording("b", c, k, 1.0, np.full(40, k, np.float32)) for c in ("idle", "full") for k in range(3)
    ]
    preprocessing = Preprocessing(Windowing(5, 5), RawWindows())
    site = SiteData(
        "north", recordings, preprocessing, Episodes(own_order=True, tasks_of="conditions", centre=False)
    )
    assert site.machine_names == ["b, full", "b, idle"]
    orders = set()
    for machine in site.machines:
        names = site.class_names(machine.name, ["zero", "one", "two"])
        told = [("zero", "one", "two")[int(value)] for value in machine.early.x[:, 0]]
        assert [names[label] for label in machine.early.label] == told
        orders.add(names)
        site.personal_episode(machine.name, seed=0)
    assert len(orders) == 1
    assert orders != {("zero", "one", "two")}


def test_an_order_over_all_classes_stays_when_a_machine_shows_another_class() -> None:
    first = MachineWindows("c", windows(8, 8), windows(4, 4))
    later = MachineWindows("c", windows(8, 8, 8), windows(4, 4, 4))
    (one,), (two,) = own_orders([first], 3), own_orders([later], 3)
    assert one.meanings == two.meanings
    assert one.early.label[:2].tolist() == two.early.label[:2].tolist()  # classes 0 and 1


def test_the_first_recordings_are_those_that_began_first() -> None:
    starts = (40, 10, 30, 20)  # s, in the order in which they are given
    recordings = [
        Recording("m", "c", k % 2, 1.0, np.full(8, k, np.float32), start * 1_000_000, part="early")
        for k, start in enumerate(starts)
    ]
    recordings += [Recording("m", "c", k, 1.0, np.full(8, 9, np.float32), 10**9, part="late") for k in (0, 1)]
    (machine,) = cut_machines(recordings, Preprocessing(Windowing(4, 4), RawWindows()), 0.5)
    episodes = Episodes(shots=2, support="first", of="as they come", per="recording", centre=False)
    assert evaluation_task(machine, episodes, rng()).support.x[:, 0].tolist() == [1, 1, 3, 3]


def test_recordings_without_a_time_come_one_after_the_other() -> None:
    """Of whatever class and condition they are."""
    recordings = [
        Recording("m", condition, k, 1.0, np.full(40, 2 * k + (condition == "b"), np.float32))
        for k in (0, 1)
        for condition in "ab"
    ]
    (machine,) = cut_machines(recordings, Preprocessing(Windowing(4, 4), RawWindows()), 0.5)
    episodes = Episodes(shots=12, support="first", of="as they come", centre=False)
    support = evaluation_task(machine, episodes, rng()).support
    assert support.x[:, 0].tolist() == [0] * 5 + [1] * 5 + [2] * 2


@pytest.mark.parametrize(
    ("episodes", "later"),
    [
        (Episodes(shots=1), [24, 50, 110]),
        (Episodes(shots=1, of="as they come"), [24, 50, 110]),
        # Class 0 takes every third place: its last early window is number 21.
        (Episodes(shots=2, normal=0), [22, 24, 50, 110]),
        (Episodes(shots=1, of="normal only", normal=0, permute_labels=False), [22, 24, 50, 110]),
    ],
)
def test_what_has_no_label_is_predicted_after_all_that_may_be_support(
    episodes: Episodes, later: list[int]
) -> None:
    """Early windows of 3 classes are numbers 0 to 23, late ones 100 to 111."""
    number = np.array([5, 21, 22, 24, 50, 110])
    label = np.array([-1, -1, -2, -2, -3, -2])
    unlabelled = Windows.of([number[:, None].astype(np.float32)], label, "any", number, 1.0)
    machine = replace(MACHINE, unlabelled=unlabelled)
    for seed in range(5):
        judged = evaluation_task(machine, episodes, np.random.default_rng(seed))
        task = prediction_task(machine, episodes, np.random.default_rng(seed))
        np.testing.assert_array_equal(task.support.x, judged.support.x)
        np.testing.assert_array_equal(task.query.x[:12], judged.query.x)
        np.testing.assert_array_equal(task.query.label[:12], judged.query.label)
        assert task.query.start[12:].tolist() == later
        assert (task.query.label[12:] < 0).all()
        assert len(judged.query) == 12
