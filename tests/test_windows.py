"""Windows and episodes: nothing leaks between early and late, support and query."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from fml_lightning import MAML, MLP, UserError
from fml_lightning.datamodules import Episodes, Recording, SiteData
from fml_lightning.datamodules.machine_windows import MachineWindows, cut_machines
from fml_lightning.datamodules.stacked_tasks import evaluation_episodes, training_episodes
from fml_lightning.datamodules.tasks import evaluation_task
from fml_lightning.datamodules.windows import Windows
from fml_lightning.preprocessing import Concat, LogBandPowers, Preprocessing, RawWindows, TimeDomain, Windowing

SMALL = Preprocessing(Windowing(length=10, hop=10), RawWindows())


def ramps(length: int = 100, early_share: float = 0.5, **windowing: float) -> MachineWindows:
    """A machine whose samples are their own time (class 0: 0…99, class 1: 1000…1099)."""
    recordings = [
        Recording("m", "c", label, 1.0, np.arange(length, dtype=np.float32) + 1000 * label) for label in (0, 1)
    ]
    preprocessing = Preprocessing(Windowing(length=10, **windowing), RawWindows())  # type: ignore[arg-type]
    return cut_machines(recordings, preprocessing, early_share)[0]


def test_early_and_late_windows_are_a_window_apart() -> None:
    machine = ramps(hop=5, early_share=0.5)
    early, late = (side.x[side.label == 0] for side in (machine.early, machine.late))
    assert early.max() == 49  # half of 100 samples
    assert late.min() == 60  # one window of 10 later
    assert len(early) == 9  # starts 0, 5, …, 40
    assert len(late) == 7  # starts 60, 65, …, 90


def test_short_and_broken_recordings_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"m, c: a recording of 25 samples is too short for windows of 10"):
        ramps(length=25, hop=5)
    values = np.ones(100, np.float32)
    values[70] = np.nan
    with pytest.raises(UserError, match="m, c: the recording holds NaN"):
        cut_machines([Recording("m", "c", 0, 1.0, values)], SMALL, 0.5)


def test_windows_bear_the_time_of_their_first_sample() -> None:
    """In µs since the machine's first recording began, at 1 Hz; one of 100 s follows the other."""
    machine = ramps(hop=5, early_share=0.5)
    for side in (machine.early, machine.late):
        assert side.start.tolist() == [
            1_000_000 * (value % 1000 + 100 * (value // 1000)) for value in side.x[:, 0]
        ]
        assert set(side.period) == {1e6}


def test_joined_and_selected_windows_are_those_of_plain_arrays() -> None:
    """Features in several arrays, one of them a view, are what numpy's indexing says."""
    values = np.arange(40, dtype=np.float32)
    views = np.lib.stride_tricks.sliding_window_view(values, 4)[::2]  # (19, 4)
    first = Windows.of([views[:10], views[10:]], 0, "a", np.arange(19), 10.0)
    second = Windows.of([views + 100], 1, "b", np.arange(19), 20.0)
    both = Windows.join([first, second])
    whole = np.concatenate([views, views + 100])
    np.testing.assert_array_equal(both.x, whole)
    for rows in (np.array([30, 0, 9, 10, 30]), whole[:, 0] > 25, np.empty(0, np.intp)):
        for part in (both.where(rows), both.where(rows).compact()):
            np.testing.assert_array_equal(part.x, whole[rows])
            assert part.shape == whole[rows].shape
            assert part.nbytes == whole[rows].nbytes
            assert part.label.tolist() == np.repeat([0, 1], 19)[rows].tolist()
            assert part.period.tolist() == np.repeat([1e5, 5e4], 19)[rows].tolist()


def test_raw_windows_that_overlap_need_no_memory_of_their_own() -> None:
    """64 windows share each sample; and validation stacks no more tasks than fit the bytes that it may use."""
    rng = np.random.default_rng(0)
    recordings = [Recording("m", "c", k, 1e4, rng.normal(size=500_000).astype(np.float32)) for k in (0, 1)]
    episodes = Episodes(tasks=8, repeats=3)
    site = SiteData("plant", recordings, Preprocessing(Windowing(length=1024, hop=16), RawWindows()), episodes)
    tracemalloc.start()
    try:
        (machine,) = site.machines
        _, cut = tracemalloc.get_traced_memory()
        assert cut < 2**25 < machine.late.nbytes
        loader = iter(site.val_dataloader())
        assert [next(loader).tasks for _ in range(3)] == [1, 1, 1]
        _, evaluated = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert evaluated < 2.2 * machine.late.nbytes  # one episode is drawn while another is at hand


def test_the_bytes_that_evaluation_may_use_change_no_task(site: SiteData, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = site.machines[0]
    options = Episodes(tasks=4, repeats=6, query_condition="other")
    whole = list(evaluation_episodes(machine, options, np.random.default_rng(1)))
    assert [episode.tasks for episode in whole] == [4, 2]
    one = whole[0].query.x[0].nbytes
    for most, expected in ((0, [1] * 6), (2 * one, [2] * 3), (3 * one + 1, [3, 3]), (100 * one, [4, 2])):
        monkeypatch.setattr("fml_lightning.datamodules.stacked_tasks.STACKED_BYTES", most)
        parts = list(evaluation_episodes(machine, options, np.random.default_rng(1)))
        assert [episode.tasks for episode in parts] == expected
        for side in ("support", "query"):
            for tensor in ("x", "y"):
                both = [torch.cat([getattr(getattr(e, side), tensor) for e in drawn]) for drawn in (whole, parts)]
                assert torch.equal(*both)


def test_features_are_computed_in_parts_with_the_numbers_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    windowing = Windowing(length=64, hop=7)
    features = Concat([LogBandPowers(bands=16), TimeDomain()])
    for at_once in (1024, 3):
        monkeypatch.setattr("fml_lightning.datamodules.machine_windows.AT_ONCE", at_once)
        (machine,) = cut_machines([Recording("m", "c", 0, 1e3, values)], Preprocessing(windowing, features), 0.5)
        late = windowing.cut(values[2500 + 64 :])
        np.testing.assert_allclose(machine.late.x, features(late, 1e3), rtol=1e-6)
    values[4000] = np.nan  # in a later part
    with pytest.raises(UserError, match="m, c: the recording holds NaN"):
        cut_machines([Recording("m", "c", 0, 1e3, values)], Preprocessing(windowing, features), 0.5)


def test_training_episodes_keep_support_and_query_apart() -> None:
    machine = ramps(hop=10)
    episodes = Episodes(shots=2, queries=2, tasks=3, batches=20, centre=False)
    drawn = list(training_episodes([machine], episodes, np.random.default_rng(0)))
    assert len(drawn) == 20
    for episode in drawn:
        assert episode.support.x.shape == (3, 4, 10)
        assert episode.query.x.shape == (3, 4, 10)
        for task in range(3):
            starts = torch.cat([episode.support.x[task], episode.query.x[task]])[:, 0]
            assert len(set(starts.tolist())) == 8  # no window twice
            assert starts.fmod(1000).max() < 50  # only early ones
            for x, y in ((episode.support.x, episode.support.y), (episode.query.x, episode.query.y)):
                assert torch.bincount(y[task]).tolist() == [2, 2]
                classes = [set((x[task, y[task] == label, 0] // 1000).int().tolist()) for label in (0, 1)]
                assert {len(c) for c in classes} == {1}  # a label means one class within a task


def test_labels_are_permuted_between_tasks_only_if_asked() -> None:
    def meanings(permute: bool) -> set[float]:
        episodes = Episodes(shots=1, queries=1, batches=30, centre=False, permute_labels=permute)
        drawn = training_episodes([ramps(hop=10)], episodes, np.random.default_rng(0))
        return {float(e.support.x[t][e.support.y[t] == 0][0, 0] // 1000) for e in drawn for t in range(e.tasks)}

    assert meanings(permute=False) == {0.0}
    assert meanings(permute=True) == {0.0, 1.0}


def test_centring_removes_a_machines_constant_offset() -> None:
    machine = ramps(hop=10)
    shifted = replace(
        machine,
        early=replace(machine.early, chunks=(machine.early.x + 77,)),
        late=replace(machine.late, chunks=(machine.late.x + 77,)),
    )
    episodes = Episodes(shots=2, repeats=2)
    for plain, moved in zip(
        evaluation_episodes(machine, episodes, np.random.default_rng(3)),
        evaluation_episodes(shifted, episodes, np.random.default_rng(3)),
        strict=True,
    ):
        torch.testing.assert_close(plain.query.x, moved.query.x)
        torch.testing.assert_close(plain.support.x.mean(1), torch.zeros(2, 10), atol=1e-4, rtol=0)
        torch.testing.assert_close(moved.centre - plain.centre, torch.full((2, 10), 77.0))


def test_judging_takes_early_support_and_every_late_window(site: SiteData) -> None:
    machine = site.machines[0]
    task = evaluation_task(machine, Episodes(shots=3), np.random.default_rng(0))
    assert np.bincount(task.support.label).tolist() == [3, 3]
    assert len(task.query.label) == len(machine.late.label)


def test_query_condition_other_never_judges_under_the_support_condition(site: SiteData) -> None:
    machine = site.machines[0]
    episodes = Episodes(shots=2, query_condition="other")
    seen = set()
    for turn in range(2):
        task = evaluation_task(machine, episodes, np.random.default_rng(0), turn)
        (supports,) = set(task.support.condition.tolist())
        assert supports not in task.query.condition
        seen.add(supports)
    assert seen == {"slow", "fast"}
    assert set(evaluation_task(ramps(hop=10), episodes, np.random.default_rng(0)).query.condition) == {"c"}


def test_ways_draws_that_many_classes(site: SiteData) -> None:
    three = replace(site.machines[0].early, label=np.arange(len(site.machines[0].early.label)) % 3)
    machine = replace(site.machines[0], early=three)
    drawn = training_episodes([machine], Episodes(ways=2, batches=3), np.random.default_rng(0))
    assert all(set(e.support.y.flatten().tolist()) == {0, 1} for e in drawn)
    with pytest.raises(UserError, match="expected 4 classes for ways, got 3"):
        list(training_episodes([machine], Episodes(ways=4), np.random.default_rng(0)))


def test_more_shots_than_a_machine_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"m: expected at least 9 early windows.*lower episodes.shots"):
        list(training_episodes([ramps(hop=10)], Episodes(shots=4, queries=5), np.random.default_rng(0)))


@pytest.mark.parametrize(
    "options", [{"shots": 0}, {"tasks": 0}, {"ways": 1}, {"ways": 3, "permute_labels": False}]
)
def test_impossible_episodes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="Episodes: "):
        Episodes(**options)  # type: ignore[arg-type]


def test_machines_of_different_classes_stack_by_padding(site: SiteData) -> None:
    """The pump has no recordings of class 1: its tasks have half as many windows."""
    recordings = [r for r in site.recordings if (r.machine, r.label) != ("pump", 1)]
    episodes = Episodes(tasks=8, shots=2, queries=3, permute_labels=False)
    mixed = SiteData("plant", recordings, site.preprocessing, episodes)
    torch.manual_seed(0)
    episode = next(iter(mixed.train_dataloader()))
    assert set(episode.machines) == {"fan", "pump"}
    for examples, size in ((episode.support, 2), (episode.query, 3)):
        assert examples.mask is not None
        for machine, mask, y in zip(episode.machines, examples.mask, examples.y, strict=True):
            assert y[mask].tolist() == [0] * size + ([1] * size if machine == "fan" else [])
    assert episode.windows == sum(10 if machine == "fan" else 5 for machine in episode.machines)
    learner = MAML(MLP(16, 2))
    loss, _ = learner.meta_gradient(episode)
    assert torch.isfinite(loss)


def test_anomaly_episodes_show_only_normal_windows_in_support(site: SiteData) -> None:
    episodes = Episodes(tasks=2, shots=4, queries=5, normal=1, repeats=2)
    data = SiteData("plant", site.recordings, site.preprocessing, episodes)
    train = next(iter(data.train_dataloader()))
    assert train.support.y.shape == (2, 4)
    assert train.query.y.shape == (2, 5)
    assert not train.support.y.any()
    assert not train.query.y.any()
    judged = next(iter(data.val_dataloader()))
    assert not judged.support.y.any()
    late = data.machines[0].late.label
    assert torch.equal(judged.query.y[0], torch.from_numpy((late != 1).astype("int64")))
    absent = SiteData("plant", site.recordings, site.preprocessing, Episodes(shots=2, normal=7))
    with pytest.raises(UserError, match="of the normal class 7 to draw support from"):
        next(iter(absent.train_dataloader()))
    with pytest.raises(UserError, match="a single normal window is its own centre"):
        Episodes(normal=0)
    with pytest.raises(UserError, match="ways or normal, not both"):
        Episodes(ways=2, normal=0)
