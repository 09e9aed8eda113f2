"""A watch from spool to board, and what interrupts it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal as signals
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probes import until
from torch import nn
from watched import (
    BEGIN,
    LENGTH,
    RATE,
    SECOND,
    SITE,
    card,
    give_models,
    in_time,
    messages,
    model,
    record,
    signal,
)

from fml_lightning.connectors.messages import Message
from fml_lightning.errors import UserError
from fml_lightning.live import follower as follower_module
from fml_lightning.live import watcher as module
from fml_lightning.live.alarm import AlarmRule
from fml_lightning.live.board import Board
from fml_lightning.live.drift import DriftRule
from fml_lightning.live.follower import Follower
from fml_lightning.live.follower_state import FollowerState
from fml_lightning.live.journal import Journal, recovered
from fml_lightning.live.log import BEGIN as LOG_BEGIN
from fml_lightning.live.log import Log
from fml_lightning.live.messages import Topics
from fml_lightning.live.outbox import Outbox
from fml_lightning.live.records import Modelled, Scored, Scores
from fml_lightning.live.rules import Rules
from fml_lightning.live.scoring import RegistryModels, Watching
from fml_lightning.live.state import Machine, State
from fml_lightning.live.watcher import Settings, Watcher
from fml_lightning.personal.registry import Registry
from fml_lightning.preprocessing import LogBandPowers, Preprocessing, Windowing

RULES = Rules(AlarmRule(on_delay=2.0, off_delay=3.0), DriftRule(baseline=180.0))
HEALTHY, SICK = 0.0, 6.0


def watch(run: Path, topics: Topics | None = None, **settings: Any) -> Watcher:
    """A watch of the spool of a run."""
    models = RegistryModels(Registry(run / "machines"))
    return Watcher(run / "watch", {SITE: run / "spool"}, models, Settings(RULES, **settings), topics)


def score_all(watcher: Watcher) -> Watcher:
    """Score what is there."""
    stop = threading.Event()
    while watcher.step(stop):
        pass
    return watcher


def story(machine: str, *parts: tuple[float, float], seed: int = 0, gain: float = 1.0) -> list[Message]:
    """Messages of a machine: seconds and amplitude of a fault, one part after the other."""
    values = [signal(seconds, fault, seed + i, gain) for i, (seconds, fault) in enumerate(parts)]
    return messages(np.concatenate(values), machine)


def scored(run: Path) -> list[tuple[Any, ...]]:
    """Every score in the journal: machine, message, end, score, label, version."""
    found = []
    for _, record_ in Journal(run / "watch", writes=False).log.read():
        decoded = json.loads(record_)
        for part in decoded.get("machines", []) if decoded["type"] == "scored" else []:
            rows = zip(part["sequence"], part["end"], part["score"], part["label"], strict=True)
            found += [(part["machine"], *row, part["version"]) for row in rows]
    return sorted(found)


def changes(run: Path) -> dict[str, list[tuple[int, int, str, str]]]:
    """All numbered changes of each machine."""
    state = recovered(run / "watch")
    return {
        machine.name: [(c.number, c.time, c.what, c.reason) for c in machine.alarm.changes if c.what != "model"]
        for machine in state.every()
    }


# What works -------------------------------------------------------------------------------------------------


def test_a_fault_is_raised_named_and_cleared_and_a_machine_without_a_model_is_listed(tmp_path: Path) -> None:
    give_models(tmp_path, "a", "b")
    parts = [story("a", (10, HEALTHY), (5, SICK), (10, HEALTHY)), story("b", (25, HEALTHY)), story("c", (2, SICK))]
    record(tmp_path / "spool", in_time(*parts))
    watcher = score_all(watch(tmp_path))
    board: Board = watcher
    assert board.views()[0].machine == "c"  # the worst
    a, b, c = sorted(board.views(), key=lambda view: view.machine)
    assert (c.health, c.reason) == ("CHECK_FUNCTION", "no model watches it; make one with fml personalize")
    assert (b.health, b.reason, b.version, b.alarm) == ("NORMAL", "", "v1", "normal")
    assert (a.health, a.alarm, a.last_data) == ("NORMAL", "normal", BEGIN + 25 * SECOND - round(SECOND / RATE))
    detail = board.detail(SITE, "a")
    assert detail is not None
    cleared, raised, _ = detail.alarms
    assert (raised.what, raised.reason, cleared.what) == ("raised", "outer", "cleared")
    # The mean of the last second (four windows) reaches .8 with the last of them; it must last for 2 s.
    assert raised.time == BEGIN + 13 * SECOND - round(SECOND / RATE)
    assert cleared.time == BEGIN + round(18.75 * SECOND) - round(SECOND / RATE)
    assert len(scored(tmp_path)) == 200
    assert len(detail.scores) == 100
    assert len(detail.frequencies) == len(detail.spectrum) == len(detail.baseline) == LENGTH // 2
    assert detail.frequencies[0] == RATE / LENGTH
    assert board.detail(SITE, "nobody") is None


def test_acknowledged_and_shelved_by_the_board(tmp_path: Path) -> None:
    give_models(tmp_path, "a")
    record(tmp_path / "spool", story("a", (4, HEALTHY), (5, SICK)))
    watcher = score_all(watch(tmp_path))
    revision = watcher.wait(0, 0.0)
    assert watcher.views()[0].health == "FAILURE"
    assert watcher.views()[0].fault == "outer"
    watcher.acknowledge(SITE, "a", "anna")
    watcher.shelve(SITE, "a", 3600.0, "bearing is ordered", "anna")
    score_all(watcher)
    assert watcher.wait(revision, 5.0) > revision
    (view,) = watcher.views()
    assert (view.acknowledged, view.health, view.shelved_reason) == (True, "CHECK_FUNCTION", "bearing is ordered")
    watcher.shelve(SITE, "a", 0.0, "", "anna")
    again = score_all(watch(tmp_path))  # a restart obeys each command once
    assert again.views()[0].health == "FAILURE"
    assert again.views()[0].since == again.views()[0].last_alarm  # not the end of the shelf
    assert [c.what for c in again.detail(SITE, "a").alarms][::-1] == [  # type: ignore[union-attr]
        "model",
        "raised",
        "acknowledged",
        "shelved",
        "unshelved",
    ]
    with pytest.raises(UserError, match="expected a machine that is watched, there are plant/a"):
        watcher.acknowledge(SITE, "x", "anna")
    with pytest.raises(UserError, match="expected to shelve for more than 0 s and at most 7 days"):
        watcher.shelve(SITE, "a", 1e9, "r", "anna")


def test_commands_that_cannot_be_read_keep_nobody_from_being_watched(tmp_path: Path) -> None:
    give_models(tmp_path, "a")
    record(tmp_path / "spool", story("a", (5, SICK)))
    commands = tmp_path / "watch" / "commands.jsonl"
    commands.mkdir(parents=True)
    watcher = score_all(watch(tmp_path))
    assert len(scored(tmp_path)) == 20
    (problem,) = watcher.problems()
    assert problem.startswith("nothing is acknowledged or shelved: [Errno 22] not a regular file")
    commands.rmdir()
    watcher.acknowledge(SITE, "a", "Ann")
    score_all(watcher)
    assert watcher.problems() == []
    assert [view.acknowledged for view in watcher.views()] == [True]


def test_a_shelf_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_models(tmp_path, "a")
    record(tmp_path / "spool", story("a", (1, HEALTHY)))
    watcher = score_all(watch(tmp_path))
    watcher.shelve(SITE, "a", 60.0, "oil", "anna")
    score_all(watcher)
    assert watcher.views()[0].shelved_until is not None
    later = time.monotonic() + 61
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    score_all(watcher)
    assert watcher.views()[0].shelved_until is None


def test_a_new_current_model_takes_over_and_a_rollback_gives_back(tmp_path: Path) -> None:
    registry = give_models(tmp_path, "a")
    values = signal(10, HEALTHY)
    every = messages(values, "a")
    record(tmp_path / "spool", every[:20])
    watcher = score_all(watch(tmp_path))
    registry.add(model(bias=20.0, machine="a"), card("a"))  # it finds everything sick
    watcher._next_look = 0.0
    score_all(watcher)
    record(tmp_path / "spool", every[20:30])
    score_all(watcher)
    registry.rollback(SITE, "a")
    watcher._next_look = 0.0
    score_all(watcher)
    record(tmp_path / "spool", every[30:])
    score_all(watcher)
    rows = scored(tmp_path)
    assert [row[5] for row in rows] == ["v1"] * 20 + ["v2"] * 10 + ["v1"] * 10
    assert [row[1] for row in rows] == list(range(40))  # no window is lost at a change
    assert all((row[3] > 0.9) == (row[5] == "v2") for row in rows)
    assert watcher.views()[0].version == "v1"


def test_a_machine_that_has_its_first_model_now_is_watched_from_now_on(tmp_path: Path) -> None:
    every = messages(signal(10, HEALTHY), "a")
    record(tmp_path / "spool", every[:20])
    watcher = score_all(watch(tmp_path))
    give_models(tmp_path, "a")
    watcher._next_look = 0.0
    score_all(watcher)
    record(tmp_path / "spool", every[20:])
    score_all(watcher)
    assert [row[1] for row in scored(tmp_path)] == list(range(20, 40))
    assert watcher.views()[0].health == "NORMAL"


def test_a_doubtful_model_asks_for_maintenance_only(tmp_path: Path) -> None:
    Registry(tmp_path / "machines").add(model(machine="a"), card("a", verdict="doubtful", reasons=["few windows"]))
    record(tmp_path / "spool", story("a", (8, SICK)))
    (view,) = score_all(watch(tmp_path)).views()
    assert (view.health, view.reason) == ("MAINTENANCE_REQUIRED", "outer, says a doubtful model: few windows")


@pytest.mark.parametrize("most", [7, 4096])
def test_a_sensor_that_loses_its_gain_drifts_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Of a model that hears how loud all bands are together; in whatever groups messages are read."""
    monkeypatch.setattr(follower_module, "MOST", most)
    monkeypatch.setattr(follower_module, "JOINED", most)
    registry = Registry(tmp_path / "machines")
    deaf = model(machine="a")
    deaf.net.weight.data[1] = -2.0  # sick if quieter # type: ignore[union-attr,operator]
    deaf.net.bias.data[1] = -16.0  # type: ignore[union-attr,operator]
    registry.add(deaf, card("a"))
    healthy, quiet = signal(200), signal(300, seed=1, gain=0.1)
    record(tmp_path / "spool", messages(np.concatenate([healthy, quiet]), "a", block=4 * LENGTH))
    (view,) = score_all(watch(tmp_path)).views()
    assert view.health == "OFF_SPEC"
    assert "-20.1 dB off its baseline at all frequencies alike" in view.reason
    # The loss begins at 200 s, within the block of [180, 240): from that one on the machine is another one.
    assert "label it, and then: fml personalize --machine plant/a --data.since 2027-01-15T08:03:" in view.reason
    assert [what for _, _, what, _ in changes(tmp_path)["a"]] == ["drift"]
    raw = [
        raw
        for _, some in Journal(tmp_path / "watch", writes=False).records()
        if isinstance(some, Scored)
        for scores in some.machines
        for raw in scores.raw
    ]
    assert np.mean([each > 0.9 for each in raw[-400:] if each is not None]) == 1.0  # as it came, all are sick
    registry.add(deaf, card("a"))
    score_all(watch(tmp_path))
    assert [what for _, _, what, _ in changes(tmp_path)["a"]] == ["drift", "drift over"]


def test_stale_sensors_and_data_that_make_no_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_models(tmp_path, "a", "b")
    record(tmp_path / "spool", in_time(story("a", (2, HEALTHY)), story("b", (2, HEALTHY))))
    began, later = time.monotonic(), 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: began + later)
    watcher = score_all(watch(tmp_path, stale=5.0))
    watcher._note_stale()
    assert {view.health for view in watcher.views()} == {"NORMAL"}
    later = 5.5
    half = messages(signal(1), "b", BEGIN + 9 * SECOND, block=LENGTH // 2)[:1]
    record(tmp_path / "spool", half)
    score_all(watcher)
    watcher._note_stale()
    views = {view.machine: view for view in watcher.views()}
    assert (views["a"].health, views["a"].reason) == ("CHECK_FUNCTION", "no data for 5 s")
    assert views["b"].reason.startswith("what it sends makes no windows")
    record(tmp_path / "spool", story("a", (3, HEALTHY))[8:])
    score_all(watcher)
    assert {view.machine: view.health for view in watcher.views()}["a"] == "NORMAL"
    assert [what for _, _, what, _ in changes(tmp_path)["a"]] == ["stale", "data again"]


def test_aliases_are_those_of_a_fleet_of_spools(tmp_path: Path) -> None:
    """A name of one site, a chain of names, and a circle, which is refused."""
    give_models(tmp_path, "P-101")
    record(tmp_path / "spool", in_time(story("pump", (2, HEALTHY)), story("p1", (2, HEALTHY), seed=1)))
    aliases = {"pump": "p1", f"{SITE}/p1": "P-101", "elsewhere": "P-101"}
    assert {view.machine for view in score_all(watch(tmp_path, aliases=aliases)).views()} == {"P-101"}
    with pytest.raises(UserError, match=r"aliases: a -> b -> a is a circle"):
        watch(tmp_path / "again", aliases={"a": "b", "b": "a"})


@pytest.mark.parametrize(
    ("preprocessing", "why"),
    [
        (
            Preprocessing(Windowing(LENGTH, LENGTH), LogBandPowers(4), ("vibration",), RATE, inputs=("speed",)),
            "12 windows without a value of what features need, or of an input",
        ),
        (
            Preprocessing(Windowing(LENGTH, LENGTH), LogBandPowers(4), ("vibration", "axial"), RATE),
            "12 windows of one channel without the others",
        ),
        (
            Preprocessing(Windowing(64 * LENGTH, LENGTH), LogBandPowers(4), ("vibration",), RATE),
            "12 readings waiting for the rest of a window",
        ),
    ],
    ids=["no speed is told", "one channel of two is dead", "less than a window"],
)
def test_what_windows_wait_for_is_why_none_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preprocessing: Preprocessing, why: str
) -> None:
    its = model(machine="a")
    its.preprocessing = preprocessing
    Registry(tmp_path / "machines").add(its, card("a"))
    record(tmp_path / "spool", story("a", (3, HEALTHY)))
    watcher = score_all(watch(tmp_path))
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 60.0)
    watcher._silence.hear((SITE, "a"))
    monkeypatch.setattr(time, "monotonic", lambda: began + 60.5)
    watcher._note_stale()
    (view,) = watcher.views()
    assert view.reason == f"what it sends makes no windows: left out: {why}"


def test_a_sensor_is_stale_while_others_send_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine of another site too, and not of one whose spool is not read to its end."""
    give_models(tmp_path, "a", "b")
    registry = Registry(tmp_path / "machines")
    registry.add(model(site="other", machine="c"), card("c", "other"))
    every = story("a", (20, HEALTHY))
    record(tmp_path / "spool", in_time(every[:8], story("b", (2, HEALTHY))))
    spools = {SITE: tmp_path / "spool", "other": tmp_path / "other"}
    record(tmp_path / "other", [])
    began, later = time.monotonic(), 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: began + later)
    watcher = Watcher(tmp_path / "watch", spools, RegistryModels(registry), Settings(RULES, stale=5.0))
    score_all(watcher)
    later = 5.5
    stop = threading.Event()
    record(tmp_path / "spool", every[8:12])
    monkeypatch.setattr(module, "LOOK", 0.0)  # each group of messages is followed by a look at all else
    assert watcher.look(stop)
    words = {view.machine: (view.health, view.reason) for view in watcher.views()}
    assert words == {"a": ("NORMAL", ""), "b": ("NORMAL", ""), "c": ("CHECK_FUNCTION", "no data for 5 s")}
    monkeypatch.setattr(module, "LOOK", 60.0)
    watcher._next_look = began + 60
    record(tmp_path / "spool", every[12:16])
    assert watcher.look(stop)  # something has come, to the end of the spool
    words = {view.machine: (view.health, view.reason) for view in watcher.views()}
    assert (words["a"], words["b"]) == (("NORMAL", ""), ("CHECK_FUNCTION", "no data for 5 s"))


def test_what_comes_later_than_the_newest_message_at_the_start_is_left_for_later(tmp_path: Path) -> None:
    give_models(tmp_path, "a")
    every = story("a", (5, HEALTHY))
    record(tmp_path / "spool", every[:8])
    watcher = watch(tmp_path)
    watcher.end_with_newest()
    record(tmp_path / "spool", every[8:12])
    score_all(watcher)
    assert [row[1] for row in scored(tmp_path)] == list(range(8))
    watcher.keep()
    score_all(watch(tmp_path))
    assert [row[1] for row in scored(tmp_path)] == list(range(12))


def test_views_are_made_once_for_all_who_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_models(tmp_path, "a")
    every = story("a", (4, HEALTHY), (6, SICK))
    record(tmp_path / "spool", every[:16])
    watcher = score_all(watch(tmp_path))
    made, real = [], Machine.view
    monkeypatch.setattr(Machine, "view", lambda machine: [real(machine), made.append(machine.name)][0])
    assert [watcher.views() for _ in range(100)] == [watcher.views()] * 100
    assert len(made) == 1
    record(tmp_path / "spool", every[16:])
    assert score_all(watcher).views()[0].health == "FAILURE"


def test_the_registry_is_listed_once_for_all_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = give_models(tmp_path, "a")
    registry.add(model(site="other-unseen", machine="c"), card("c", "other-unseen"))
    listed, real = [], Registry.machines
    monkeypatch.setattr(Registry, "machines", lambda own: [real(own), listed.append(own)][0])
    spools = {site: tmp_path / site for site in (SITE, "other", "third")}
    watcher = Watcher(tmp_path / "watch", spools, RegistryModels(registry), Settings(RULES))
    watcher.step(threading.Event())
    assert len(listed) == 1
    assert [(view.site, view.machine, view.version) for view in watcher.views()] == [
        ("other", "c", "v1"),
        (SITE, "a", "v1"),
    ]


# Models that come, fail and go ------------------------------------------------------------------------------


class Rare(nn.Module):
    """A network that fails on a window that is loud in all bands."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x > 4).all()):
            raise RuntimeError("too loud")
        return self.inner(x)  # type: ignore[no-any-return]


class Counted(RegistryModels):
    """Models of which it is known how often each was loaded, and whose versions cannot be found at times."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.loaded = 0
        self.is_lost = False

    def version(self, site: str, machine: str) -> str:
        if self.is_lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().version(site, machine)

    def current(self, site: str, machine: str) -> Watching | None:
        self.loaded += 1
        return super().current(site, machine)


def counted(run: Path) -> tuple[Watcher, Counted]:
    """A watch of such models."""
    models = Counted(Registry(run / "machines"))
    return Watcher(run / "watch", {SITE: run / "spool"}, models, Settings(RULES)), models


def look_at_models(watcher: Watcher) -> Watcher:
    """Score what is there, after a look at the models."""
    watcher._next_look = 0.0
    return score_all(watcher)


def test_a_machine_whose_models_are_another_users_keeps_no_other_from_being_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_models(tmp_path, "a", "b")
    record(tmp_path / "spool", in_time(story("a", (3, HEALTHY)), story("b", (3, HEALTHY))))
    real = os.listdir, Path.read_text
    theirs = str(tmp_path / "machines" / SITE / "b")

    def listdir(path: Any) -> list[str]:
        if str(path).startswith(theirs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real[0](path)

    def read_text(path: Path, *arguments: Any, **named: Any) -> str:
        listdir(path.parent if str(path).startswith(theirs) else tmp_path)
        return real[1](path, *arguments, **named)

    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(Path, "read_text", read_text)
    watcher = score_all(watch(tmp_path))
    watcher._next_look = 0.0
    score_all(watcher)
    assert [view.machine for view in watcher.views() if view.health == "NORMAL"] == ["a"]
    (other,) = [view for view in watcher.views() if view.machine == "b"]
    assert other.reason.startswith("its model cannot be used: [Errno 13] Permission denied")


def test_a_machine_that_was_held_out_of_its_site_is_watched_by_the_sites_own_model_when_there_is_one(
    tmp_path: Path,
) -> None:
    models = Registry(tmp_path / "machines")
    models.add(model(machine="a", site=f"{SITE}-unseen"), card("a", f"{SITE}-unseen"))
    every = story("a", (20, HEALTHY))
    record(tmp_path / "spool", every[:40])
    watcher = score_all(watch(tmp_path))
    models.add(model(bias=20.0, machine="a"), card("a"))  # calls all windows faulty
    look_at_models(watcher)
    record(tmp_path / "spool", every[40:])
    score_all(watcher)
    rows = scored(tmp_path)
    assert [row[5] for row in rows] == ["v1"] * 40 + ["v2"] * 40
    assert max(row[3] for row in rows[:40]) < 0.5 < min(row[3] for row in rows[40:])


def test_a_new_model_has_a_healthy_baseline_of_its_own(tmp_path: Path) -> None:
    models = give_models(tmp_path, "a")
    quiet = messages(signal(20), "a")
    loud = messages(signal(20, seed=1, gain=10.0), "a", BEGIN + 20 * SECOND)
    record(tmp_path / "spool", quiet)
    watcher = score_all(watch(tmp_path))
    before = watcher.detail(SITE, "a")
    models.add(model(machine="a"), card("a"))
    look_at_models(watcher)
    record(tmp_path / "spool", loud)
    score_all(watcher)
    after = watcher.detail(SITE, "a")
    assert before is not None
    assert after is not None
    rise = np.median(np.subtract(after.baseline, before.baseline))
    assert rise == pytest.approx(20, abs=2)  # 17, if the means of both were one


def test_after_a_model_that_cannot_be_read_a_rollback_lets_the_one_before_watch_again(tmp_path: Path) -> None:
    registry = give_models(tmp_path, "a")
    every = story("a", (200, HEALTHY))
    record(tmp_path / "spool", every[:740])
    watcher = score_all(watch(tmp_path))
    machine = watcher.state.get(SITE, "a")
    assert machine is not None
    frozen = machine.drift.frozen
    assert frozen is not None  # after 180 s
    broken = registry.add(model(machine="a"), card("a"))
    broken.model.write_bytes(b"no model")
    look_at_models(watcher)
    (view,) = watcher.views()
    assert (view.version, view.health) == ("v2", "CHECK_FUNCTION")
    registry.rollback(SITE, "a")
    look_at_models(watcher)
    record(tmp_path / "spool", every[740:])
    score_all(watcher)
    (view,) = watcher.views()
    assert (view.version, view.health, view.reason) == ("v1", "NORMAL", "")
    assert [row[1] for row in scored(tmp_path)] == list(range(800))
    assert machine.drift.frozen == frozen  # of the same model: nothing is learned anew
    assert recovered(tmp_path / "watch").get(SITE, "a").drift.frozen == frozen  # type: ignore[union-attr]


def test_a_model_that_could_not_be_found_for_a_moment_watches_on(tmp_path: Path) -> None:
    give_models(tmp_path, "a")
    every = story("a", (5, HEALTHY))
    record(tmp_path / "spool", every[:8])
    watcher, models = counted(tmp_path)
    score_all(watcher)
    models.is_lost = True
    look_at_models(watcher)
    (view,) = watcher.views()
    assert view.reason == "its model cannot be used: [Errno 5] Input/output error"
    models.is_lost = False
    look_at_models(watcher)
    record(tmp_path / "spool", every[8:])
    score_all(watcher)
    assert watcher.views()[0].health == "NORMAL"
    assert [row[1] for row in scored(tmp_path)] == list(range(20))


@pytest.mark.parametrize("size", [1e18, 1e30])
def test_samples_too_large_to_be_squared_make_no_score_and_keep_no_watch_from_a_restart(
    size: float, tmp_path: Path
) -> None:
    give_models(tmp_path, "a")
    values = signal(2)
    values[-LENGTH:] *= np.float32(size)
    record(tmp_path / "spool", messages(values, "a"))
    for watcher in (score_all(watch(tmp_path)), watch(tmp_path)):  # the second one reads the journal
        (view,) = watcher.views()
        assert view.health == "CHECK_FUNCTION"
        largest = np.abs(values).max()
        assert (
            view.reason
            == f"its model scores nothing: what it makes of samples of up to {largest:.3g} is no number"
        )
    record(tmp_path / "spool", messages(signal(2), "a", BEGIN + 2 * SECOND))
    (view,) = score_all(watch(tmp_path)).views()
    assert (view.health, view.reason) == ("NORMAL", "")
    assert [row[3] is None for row in scored(tmp_path)] == [False] * 7 + [True] + [False] * 8


def test_one_window_on_which_a_network_fails_is_one_window(tmp_path: Path) -> None:
    rare = model(machine="a")
    net = Rare()
    net.inner.load_state_dict(rare.net.state_dict())
    rare.net = net
    Registry(tmp_path / "machines").add(rare, card("a"))
    quiet, loud = signal(2), signal(0.25, gain=1000.0)
    every = messages(np.concatenate([quiet, loud, quiet]), "a")
    record(tmp_path / "spool", every[:9])
    watcher = score_all(watch(tmp_path))
    (view,) = watcher.views()
    assert view.reason == "its model scores nothing: its network Rare fails: too loud"
    assert (view.health, view.version) == ("CHECK_FUNCTION", "v1")
    record(tmp_path / "spool", every[9:])
    assert score_all(watcher).views()[0].health == "NORMAL"
    assert score_all(watch(tmp_path)).views()[0].health == "NORMAL"
    assert [row[1] for row in scored(tmp_path)] == list(range(17))
    assert [row[1] for row in scored(tmp_path) if row[3] is None] == [8]


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_model_that_cannot_watch_is_loaded_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    """One that is broken, and a whole one that a watch refuses; another version at once, a mended one in time."""
    registry = Registry(tmp_path / "machines")
    refused = model(machine="a")
    refused.preprocessing = None if is_whole else refused.preprocessing
    first = registry.add(refused, card("a"))
    kept = first.model.read_bytes()
    if not is_whole:
        first.model.write_bytes(b"no model")
    record(tmp_path / "spool", story("a", (2, HEALTHY)))
    watcher, models = counted(tmp_path)
    began, later = time.monotonic(), 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: began + later)
    for _ in range(7200):  # an hour of looks
        look_at_models(watcher)
        later += 0.5
    # At once, after 0, 0.5, 1, 2, 4, 8, 16 and 32 s; then once a minute.
    assert 60 <= models.loaded <= 72
    if not is_whole:
        first.model.write_bytes(kept)
        later += 60.0
    else:
        registry.add(model(machine="a"), card("a"))
    assert look_at_models(watcher).views()[0].reason == "no window has come yet"


def test_what_becomes_of_a_model_is_written_when_a_full_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that cannot be read any more, found after messages that brought nothing, while the disk is full."""
    registry = give_models(tmp_path, "a")
    record(tmp_path / "spool", story("a", (2, HEALTHY)))
    watcher = score_all(watch(tmp_path))
    foreign = [
        message._replace(topic=message.topic.replace(SITE, "elsewhere")) for message in story("a", (1, HEALTHY))
    ]
    record(tmp_path / "spool", foreign)
    score_all(watcher)
    assert watcher.followers[SITE].position > watcher.state.positions[SITE]
    registry.add(model(machine="a"), card("a")).model.write_bytes(b"no model")
    monkeypatch.setattr(module, "RETRY", 0.0)
    real, is_full = Log.append, True

    def append(log: Log, lines: list[bytes], sync: bool = True) -> Any:
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(log, lines, sync)

    monkeypatch.setattr(Log, "append", append)
    look_at_models(watcher)
    assert watcher.problem is not None
    is_full = False
    score_all(watcher)
    (view,) = watcher.views()
    assert (view.version, view.health) == ("v2", "CHECK_FUNCTION")
    assert "its model cannot be used" in view.reason
    assert recovered(tmp_path / "watch").get(SITE, "a").problem  # type: ignore[union-attr]


def test_a_window_on_which_a_network_fails_while_the_disk_is_full_takes_no_model_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare, net = model(machine="a"), Rare()
    net.inner.load_state_dict(rare.net.state_dict())
    rare.net = net
    Registry(tmp_path / "machines").add(rare, card("a"))
    every = messages(np.concatenate([signal(2), signal(0.25, gain=1000.0), signal(2)]), "a")
    record(tmp_path / "spool", every[:8])
    watcher = score_all(watch(tmp_path))
    record(tmp_path / "spool", every[8:9])
    monkeypatch.setattr(module, "RETRY", 0.0)
    with monkeypatch.context() as full:

        def append(*_: Any) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(Log, "append", append)
        score_all(watcher)
        assert watcher.problem is not None
    record(tmp_path / "spool", every[9:])
    assert score_all(watcher).views()[0].health == "NORMAL"
    assert [row[1] for row in scored(tmp_path) if row[3] is not None] == [*range(8), *range(9, 17)]


def test_a_doubt_that_comes_keeps_the_baseline_and_another_model_does_not(tmp_path: Path) -> None:
    state = State()
    scores = Scores("a", "v1", [0], [BEGIN], 0.25, 1, [0.2], [0.2], ["normal"], [0.9], [[0.0, 1.0, 2.0]])
    first = {"windowing": {"length": 256}}
    for said, blocks in (
        (Modelled(SITE, "a", "v1", BEGIN, preprocessing=first), 0),
        (Scored(SITE, 0, BEGIN, ["a"], [scores]), 1),
        (Modelled(SITE, "a", "v1", BEGIN, "few windows", preprocessing=first), 1),
        (Modelled(SITE, "a", "v1", BEGIN, problem="it cannot be read"), 1),
        (Modelled(SITE, "a", "v1", BEGIN, preprocessing=first), 1),
        (Modelled(SITE, "a", "v1", BEGIN, preprocessing={"windowing": {"length": 128}}), 0),
        (Scored(SITE, 1, BEGIN, ["a"], [scores]), 1),
        (Modelled(SITE, "a", "v2", BEGIN, preprocessing={"windowing": {"length": 128}}), 0),
    ):
        state.apply(said)
        machine = state.get(SITE, "a")
        assert machine is not None
        assert (machine.drift.count, len(machine.alarm.recent)) == (blocks, blocks), said


# Determinism ------------------------------------------------------------------------------------------------


def cut(tmp_path: Path, batches: list[int], restart: bool, spool: Path) -> list[tuple[Any, ...]]:
    """Windows of two machines, one with overlapping windows whose blocks are no multiple of a hop."""
    overlapping = Preprocessing(Windowing(length=100, hop=37), LogBandPowers(2), ("vibration",), RATE)
    plain = Preprocessing(Windowing(length=64, hop=64), LogBandPowers(2), ("vibration",), RATE)
    follower = Follower(SITE, spool)
    follower.watch("a", overlapping, {})
    follower.watch("b", plain, {})
    found = []
    for until_ in batches:
        for read in follower.read(until_):
            for some in read.windows:
                rows = zip(some.sequence.tolist(), some.end.tolist(), some.values, strict=True)
                found += [(some.machine, *row[:2], row[2].tobytes()) for row in rows]
        if restart:
            state = follower_module.msgspec.json.encode(follower.state())
            follower = Follower(SITE, spool, follower_module.msgspec.json.decode(state, type=FollowerState))
    return sorted(found)


@pytest.mark.long
def test_windows_are_the_same_in_any_batches_and_after_any_restart(tmp_path: Path) -> None:
    generator = random.Random(0)
    a = messages(signal(30), "a", block=90)
    b = messages(signal(30, seed=1), "b", block=50)
    del a[50], b[10:12]  # gaps
    a[60:70] = generator.sample(a[60:70], 10)  # out of order
    every = in_time(a, b)
    record(tmp_path / "spool", every, group=7)
    last = len(every) - 1
    whole = cut(tmp_path, [last], False, tmp_path / "spool")
    assert len(whole) > 1000
    for batches in ([*range(0, last, 1), last], sorted([*generator.sample(range(last), 40), last])):
        assert cut(tmp_path, batches, False, tmp_path / "spool") == whole
    assert cut(tmp_path, sorted([*generator.sample(range(last), 60), last]), True, tmp_path / "spool") == whole


@pytest.fixture
def plan(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a run whose spool has two machines, one of them with faults."""

    def make(name: str) -> Path:
        run = tmp_path / name
        run.mkdir()
        give_models(run, "a", "b")
        a = story("a", (20, HEALTHY), (6, SICK), (10, HEALTHY), (6, SICK), (6, HEALTHY))
        record(run / "spool", in_time(a, story("b", (48, HEALTHY), seed=9)), group=20)
        return run

    return make


class After(threading.Event):
    """Set after so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_the_same_state_however_often_it_is_restarted(
    plan: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut_up = plan("whole"), plan("cut")
    score_all(watch(whole))
    monkeypatch.setattr(follower_module, "MOST", 17)
    generator = random.Random(1)
    for _ in range(12):
        watcher = watch(cut_up)
        watcher.step(After(generator.randrange(3)))
        if generator.random() < 0.4:
            watcher.keep()
    score_all(watch(cut_up))
    assert scored(cut_up) == scored(whole)
    assert changes(cut_up) == changes(whole)
    assert [what for _, _, what, _ in changes(whole)["a"]] == ["raised", "cleared", "raised", "cleared"]


def watch_all(run: str, windows: int, pause: float) -> None:
    """What the process does that is killed, a pause after so many more windows; not if there are fewer."""
    torch.set_num_threads(1)
    follower_module.MOST = follower_module.JOINED = 5
    module.SNAPSHOT = 0.02
    before = len(scored(Path(run)))

    def die() -> None:
        until(lambda: len(scored(Path(run))) >= before + windows)
        time.sleep(pause)
        os.kill(os.getpid(), signals.SIGKILL)

    threading.Thread(target=die, daemon=True).start()
    score_all(watch(Path(run), Topics()))


def test_killed_at_any_moment_it_scores_and_tells_the_same(
    plan: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server of forks, which has imported all that takes long, finds this file by the environment.
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    whole, killed = plan("whole"), plan("killed")
    score_all(watch(whole))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    generator, kills = random.Random(0), 0
    while True:
        more, pause = generator.randrange(1, 60), generator.uniform(0, 0.02)
        process = context.Process(target=watch_all, args=(str(killed), more if kills < 8 else 1000, pause))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signals.SIGKILL
        kills += 1
    assert kills >= 3
    assert scored(killed) == scored(whole)
    assert changes(killed) == changes(whole)
    payloads = told(killed)
    windows = [(each["machine"], *window[:2]) for each in payloads for window in each["windows"]]
    assert sorted(windows) == sorted(row[:3] for row in scored(whole))
    numbers = [(each["machine"], change["number"]) for each in payloads for change in each["changes"]]
    assert sorted(numbers) == [(machine, 1 + k) for machine, most in (("a", 5), ("b", 1)) for k in range(most)]


def told(run: Path) -> list[dict[str, Any]]:
    """The payloads of all messages in an outbox."""
    box = Outbox(run / "watch/outbox", run / "watch/published.json")
    return [json.loads(bytes(message.payload)) for _, message in box.after(LOG_BEGIN)]


# Disks ------------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_scoring_and_it_goes_on_when_there_is_room(
    plan: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, full = plan("whole"), plan("full")
    score_all(watch(whole, Topics()))
    watcher = watch(full, Topics())
    monkeypatch.setattr(module, "RETRY", 0.0)
    real, left = Log.append, 3

    def append(log: Log, lines: list[bytes], sync: bool = True) -> Any:
        nonlocal left
        left -= 1
        if left % 4 == 0 and left > -60:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(log, lines, sync)

    monkeypatch.setattr(Log, "append", append)
    monkeypatch.setattr(follower_module, "MOST", 20)
    problems = set()
    for _ in range(200):
        watcher.step(threading.Event())
        problems.add(watcher.problem)
    assert watcher.problem is None
    assert any("No space left on device; make room, and it goes on" in (problem or "") for problem in problems)
    assert scored(full) == scored(whole)
    assert changes(full) == changes(whole)
    boxes = [sorted(window for each in told(run) for window in each["windows"]) for run in (full, whole)]
    assert boxes[0] == boxes[1]


def test_what_is_torn_is_left_out_and_what_is_damaged_is_said(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", segment=40)
    log.append([b"one", b"two"])
    log.append([b"three" * 4])
    log.append([b"four"])
    path = tmp_path / "log/00000002.log"
    path.write_bytes(path.read_bytes() + b"0000")
    log = Log(tmp_path / "log", segment=40)
    assert [line for _, line in log.read()] == [b"one", b"two", b"three" * 4, b"four"]
    first = tmp_path / "log/00000001.log"
    first.write_bytes(first.read_bytes().replace(b"two", b"tow"))
    with pytest.raises(UserError, match="the line at byte 13 is damaged"):
        list(log.read())


def test_another_spool_is_refused(tmp_path: Path) -> None:
    give_models(tmp_path, "a")
    record(tmp_path / "spool", story("a", (4, HEALTHY)))
    score_all(watch(tmp_path))
    os.rename(tmp_path / "spool", tmp_path / "old")
    record(tmp_path / "spool", story("a", (1, HEALTHY)))
    with pytest.raises(UserError, match="it is another spool"):
        watch(tmp_path)


def test_a_model_that_cannot_be_read_or_watch_is_said(tmp_path: Path) -> None:
    registry = give_models(tmp_path, "a")
    current = registry.current(SITE, "a")
    assert current is not None
    current.model.write_bytes(b"no model")
    record(tmp_path / "spool", story("a", (4, HEALTHY)))
    watcher = score_all(watch(tmp_path))
    assert "its model cannot be used" in watcher.views()[0].reason
    assert watcher.views()[0].health == "CHECK_FUNCTION"


def test_fault_lines_are_of_the_nameplate_where_no_model_knows_them(tmp_path: Path) -> None:
    give_models(tmp_path, "a")
    record(tmp_path / "spool", story("a", (1, HEALTHY)))
    plates = {f"{SITE}/*": {"speed": 20, "bearing": "6205-2RS"}}
    shown = score_all(watch(tmp_path, nameplates=plates)).detail(SITE, "a")
    assert shown is not None
    assert dict(shown.fault_lines)["BPFO"] == pytest.approx(3.5848 * 20)
    with pytest.raises(UserError, match=r"watch\.nameplates, a: expected a finite number under 'speed', got 'x'"):
        watch(tmp_path, nameplates={"a": {"speed": "x"}})


def test_a_machine_of_which_no_window_has_come_is_not_called_normal(tmp_path: Path) -> None:
    give_models(tmp_path, "a", "b")
    record(tmp_path / "spool", story("a", (1, HEALTHY)))
    views = score_all(watch(tmp_path)).views()
    assert [(view.machine, view.health, view.reason) for view in views] == [
        ("b", "CHECK_FUNCTION", "no window has come yet"),
        ("a", "NORMAL", ""),
    ]


@pytest.mark.parametrize("aliases", [{"pump": "p1", "p1": "a"}, {"plant/pump": "a"}, {"plant/pump": "plant/a"}])
def test_a_renamed_machine_is_watched_as_the_runs_data_know_it(tmp_path: Path, aliases: dict[str, str]) -> None:
    give_models(tmp_path, "a")
    record(tmp_path / "spool", story("pump", (2, HEALTHY)))
    views = score_all(watch(tmp_path, aliases=aliases)).views()
    assert [(view.machine, view.health) for view in views] == [("a", "NORMAL")]
    assert len(scored(tmp_path)) == 8


def test_what_machines_send_that_have_one_name_now_is_never_in_one_window(tmp_path: Path) -> None:
    """Blocks of both alternate, and one's follow the other's without a gap: so it is for a fleet of spools."""
    give_models(tmp_path, "m")
    blocks = messages(signal(4), "a", block=LENGTH // 2)
    others = [each._replace(topic=each.topic.replace("/a/", "/b/")) for each in blocks[1::2]]
    record(tmp_path / "spool", in_time(blocks[::2], others))
    score_all(watch(tmp_path, aliases={"a": "m", "b": "m"}))
    assert scored(tmp_path) == []
    record(tmp_path / "spool", messages(signal(1), "a", begin=BEGIN + 5 * SECOND))
    score_all(watch(tmp_path, aliases={"a": "m", "b": "m"}))
    assert len(scored(tmp_path)) == 4


def test_a_spool_that_is_made_anew_meanwhile_is_why_no_data_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_models(tmp_path, "a")
    record(tmp_path / "spool", story("a", (4, HEALTHY)))
    watcher = score_all(watch(tmp_path))
    os.rename(tmp_path / "spool", tmp_path / "old")
    record(tmp_path / "spool", story("a", (1, HEALTHY)))
    began = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: began + 61)
    score_all(watcher)
    watcher._note_stale()
    (view,) = watcher.views()
    assert view.reason.startswith("no data for 60 s: spool ")
    assert "messages up to 3; it is another spool" in view.reason
