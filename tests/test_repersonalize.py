"""New models of machines that drift: when one is tried, what comes of it; and no fault is taken for normal."""

from __future__ import annotations

import os
import shutil
import signal as signals
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from probes import LONG, until
from test_watch import RULES, changes, score_all
from watched import BEGIN, LENGTH, SECOND, SITE, give_models, messages, record, signal

from fml_lightning.errors import UserError
from fml_lightning.live import watcher as module
from fml_lightning.live.attempt import AGAIN, LONGEST, Attempt, is_due, iso
from fml_lightning.live.background_process import PROCESS, BackgroundProcess
from fml_lightning.live.drift import Drift
from fml_lightning.live.records import Tried, Trying
from fml_lightning.live.repersonalizer import Repersonalizer
from fml_lightning.live.scoring import RegistryModels
from fml_lightning.live.state import Machine, State
from fml_lightning.live.watcher import Settings, Watcher
from fml_lightning.names import UNSEEN
from fml_lightning.personal.registry import Registry

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("prompt")]

AUTO = msgspec.structs.replace(RULES, repersonalize="auto")
BEFORE, DRIFT = 200.0, 360.0
"""Seconds of data: the baseline of three minutes, and what is off it by 20 dB."""


# When ------------------------------------------------------------------------------------------------------


def test_an_attempt_is_due_while_a_calm_machine_drifts_every_ten_minutes() -> None:
    now = BEGIN
    assert is_due(None, "it drifts", "normal", now)
    assert not is_due(None, "", "normal", now)
    for state in ("pending", "firing", "recovering"):
        assert not is_due(None, "it drifts", state, now)
    attempt = Attempt(now, {})
    assert not is_due(attempt, "it drifts", "normal", now + 10**12)  # it is open
    attempt.end("failed", "no labels", now + SECOND)
    assert not is_due(attempt, "it drifts", "normal", now + 599 * SECOND)
    assert is_due(attempt, "it drifts", "normal", now + 600 * SECOND)
    assert is_due(attempt, "it drifts", "normal", now - 3600 * SECOND)  # the clock was set back


def test_models_that_are_kept_back_double_the_wait_and_failures_do_not() -> None:
    attempt = Attempt(BEGIN, {})
    waits = []
    for outcome in ("failed", "failed", "kept back", "kept back", "failed", *["kept back"] * 8):
        attempt = Attempt.after(attempt, BEGIN, {})
        attempt.end(outcome, "", BEGIN)  # type: ignore[arg-type]
        waits.append(attempt.wait() / AGAIN)
    assert waits == [1, 1, 2, 4, 4, 8, 16, 32, 64, 128, 144, 144, 144]
    assert LONGEST == 144 * AGAIN


@pytest.mark.parametrize(("took", "wait"), [(10, 600), (90, 900), (600, 6000), (10**6, 6000), (-3600, 6000)])
def test_attempts_that_take_long_take_a_tenth_of_the_time(took: int, wait: int) -> None:
    """Such as those of a long spool, which reach the limit of ten minutes; clocks may be set meanwhile."""
    state = State(rules=AUTO)
    state.machines = {SITE: {"a": Machine(SITE, "a", drift=Drift(reason="it drifts"))}}
    state.apply(Trying(SITE, "a", BEGIN, {}))
    state.apply(Tried(SITE, "a", BEGIN + took * SECOND, "failed", "it took longer than 600 s"))
    attempt = state.machines[SITE]["a"].attempt
    assert not is_due(attempt, "it drifts", "normal", BEGIN + (wait - 1) * SECOND)
    assert is_due(attempt, "it drifts", "normal", BEGIN + wait * SECOND)


def test_no_model_again_is_no_news() -> None:
    attempt = Attempt(BEGIN, {})
    outcomes = ("failed", "failed", "kept back", "kept back", "failed", "failed", "watches")
    news = [attempt.end(outcome, f"reason {i}", BEGIN) for i, outcome in enumerate(outcomes)]  # type: ignore[arg-type]
    assert news == [True, False, True, True, True, False, True]
    assert attempt.reason == "reason 6"


# By processes that are no fml personalize ----------------------------------------------------------------------

MAKES = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from watched import card, model
from fml_lightning.personal.registry import Registry
pathlib.Path({folder!r}, "arguments").write_text(" ".join(sys.argv[1:]))
its = card("a", {site!r}, {verdict!r}, ["few windows"])
Registry(pathlib.Path({folder!r}, "machines")).add(model(machine="a", site={site!r}), its)
"""


def makes(folder: Path, verdict: str = "ship", site: str = SITE) -> list[str]:
    """A command that puts a model into the registry of a run."""
    code = MAKES.format(tests=str(Path(__file__).parent), folder=str(folder), verdict=verdict, site=site)
    return [sys.executable, "-c", code]


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine with a model, whose sensor has lost its gain, and which was watched until then."""
    folder = tmp_path_factory.mktemp("drifted")
    give_models(folder, "a")
    values = [signal(BEFORE), signal(DRIFT, seed=1, gain=0.1)]
    record(folder / "spool", messages(np.concatenate(values), "a", block=4 * LENGTH))
    watcher = watch(folder, [])
    watcher.repersonalizer = None
    score_all(watcher).keep()
    assert watcher.views()[0].health == "OFF_SPEC"
    return folder


@pytest.fixture
def folder(drifted: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return Path(shutil.copytree(drifted, tmp_path / "run"))


def watch(folder: Path, command: list[str], limit: float = LONG) -> Watcher:
    """A watch of the spool of a run, which makes models by a command."""
    registry = Registry(folder / "machines")
    (folder / "watch").mkdir(exist_ok=True)
    repersonalizer = Repersonalizer(folder / "watch", registry, command, limit)
    spools = {SITE: folder / "spool"}
    return Watcher(folder / "watch", spools, RegistryModels(registry), Settings(AUTO), None, repersonalizer)


def look(watcher: Watcher, until_: Any) -> None:
    """Look again and again until something is so."""

    def is_so() -> bool:
        watcher._next_look = watcher._next_list = 0.0
        score_all(watcher)
        return bool(until_())

    until(is_so)


def said(folder: Path) -> list[str]:
    """What the history says of new models."""
    return [reason for _, _, what, reason in changes(folder)["a"] if what == "personalized"]


@pytest.mark.parametrize("site", [SITE, SITE + UNSEEN])
def test_a_model_that_is_made_watches_and_the_history_says_so_once(folder: Path, site: str) -> None:
    watcher = watch(folder, makes(folder, site=site))
    if site != SITE:  # the only model it has is under the other name
        (folder / "machines" / SITE).rename(folder / "machines" / site)
    look(watcher, lambda: said(folder))
    assert said(folder) == ["v2 watches now: it is to be shipped"]
    look(watcher, lambda: watcher.views()[0].version == "v2")
    assert watcher.views()[0].health == "NORMAL"
    # The gain is lost at 200 s, within the minute that began at 180 s (of windows of a quarter of a second).
    assert (folder / "arguments").read_text() == f"--machine={SITE}/a --data.since={iso(BEGIN + 180 * SECOND)}"
    again = score_all(watch(folder, makes(folder, site=site)))
    assert said(folder) == ["v2 watches now: it is to be shipped"]
    assert again.views()[0].health == "NORMAL"


def test_a_model_that_is_kept_back_does_not_watch_and_it_is_said_why(folder: Path) -> None:
    watcher = watch(folder, makes(folder, "refused"))
    look(watcher, lambda: said(folder))
    (view,) = watcher.views()
    assert said(folder) == ["v1 goes on watching, and v2 does not: it is refused"]
    assert (view.version, view.health) == ("v1", "OFF_SPEC")
    assert view.reason.endswith("; v1 goes on watching, and v2 does not: it is refused")


@pytest.mark.parametrize(
    ("code", "limit", "sentence"),
    [
        (
            "print('fml: warning: x'); print('fml: error: no labels yet'); exit(1)",
            LONG,
            "no new model: no labels yet",
        ),
        ("exit(1)", LONG, "no new model: it was interrupted"),
        ("import time; time.sleep(600)", 0.2, "no new model: it took longer than 0.2 s"),
    ],
)
def test_an_attempt_that_fails_is_said_once_and_made_again_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, limit: float, sentence: str
) -> None:
    watcher = watch(folder, [sys.executable, "-c", code], limit)
    look(watcher, lambda: said(folder))
    assert said(folder) == [sentence]
    assert watcher.views()[0].reason.endswith(f"; {sentence}")
    machine = watcher.state.get(SITE, "a")
    assert machine is not None
    assert machine.attempt is not None
    began = machine.attempt.time
    score_all(watcher)
    assert machine.attempt.time == began
    later = began + 601 * SECOND
    monkeypatch.setattr(module, "_now", lambda: later)
    look(watcher, lambda: machine.attempt.time == later and not machine.attempt.is_open)  # type: ignore[union-attr]
    assert said(folder) == [sentence]  # it is no news


def test_a_command_that_cannot_be_started_is_said(folder: Path) -> None:
    watcher = watch(folder, [str(folder / "nothing")])
    look(watcher, lambda: said(folder))
    assert "No such file" in said(folder)[0]


def test_nothing_is_taught_while_there_may_be_a_fault(folder: Path) -> None:
    """A sensor that loses its gain, and then a fault: the attempt that runs is ended, and no other begins."""
    waits = [sys.executable, "-c", "import time; time.sleep(600)"]
    watcher = watch(folder, waits)
    process = watcher.repersonalizer
    assert process is not None
    look(watcher, process.process.is_running)
    begin = BEGIN + round((BEFORE + DRIFT) * SECOND)
    record(folder / "spool", messages(signal(5, 60.0, seed=2, gain=0.1), "a", begin))
    look(watcher, lambda: said(folder))
    assert said(folder) == ["no new model: there may be a fault, which must not be taken for normal"]
    assert watcher.views()[0].alarm == "firing"
    assert not process.process.is_running()
    watcher._next_look = 0.0
    score_all(watcher)
    assert not process.process.is_running()


def test_a_watch_that_is_killed_meanwhile_finds_what_has_come_of_it(folder: Path) -> None:
    """Its process outlives it, holds the lock, and ends: only then the next watch knows, and says it once."""
    go = folder / "go"
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(.01)\n"
    command = makes(folder)
    command[-1] = waits + command[-1]
    killed = watch(folder, command)
    look(killed, killed.repersonalizer.process.is_running)  # type: ignore[union-attr]
    process = killed.repersonalizer.process._child  # type: ignore[union-attr]
    assert process is not None
    again = watch(folder, ["false"])
    again._next_look = 0.0
    score_all(again)
    assert said(folder) == []
    with pytest.raises(UserError, match="a new model of a machine is being made"):
        again.repersonalizer.start(SITE, "a", BEGIN)  # type: ignore[union-attr]
    go.touch()
    process.wait()
    look(again, lambda: said(folder))
    assert said(folder) == ["v2 watches now: it is to be shipped"]


def test_an_attempt_that_was_written_down_and_never_begun_is_over(folder: Path) -> None:
    watcher = watch(folder, ["false"])
    watcher.repersonalizer.start = lambda *_: None  # type: ignore[union-attr,method-assign] # it was killed before
    look(watcher, lambda: any(m.attempt for m in watcher.state.every()))
    again = watch(folder, ["false"])
    look(again, lambda: said(folder))
    assert said(folder) == ["no new model: it was interrupted"]


def test_the_process_ends_with_its_watch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # its priority is the lowest
    with Repersonalizer(folder, Registry(folder), [sys.executable, "-c", "import time; time.sleep(600)"]) as made:
        made.start(SITE, "a", BEGIN)
        process = made.process._child
        assert process is not None
        assert process.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    assert process.poll() == -signals.SIGKILL


# The process of a watch that was killed -------------------------------------------------------------------------

HANGS = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_child_that_hangs_is_ended_by_the_next_watch(folder: Path) -> None:
    killed = watch(folder, HANGS)
    look(killed, killed.repersonalizer.process.is_running)  # type: ignore[union-attr]
    again = watch(folder, ["false"], 0.2)
    look(again, lambda: said(folder))
    assert said(folder) == ["no new model: it took longer than 0.2 s"]
    child = killed.repersonalizer.process._child  # type: ignore[union-attr]
    assert child is not None
    assert child.wait() == -signals.SIGKILL


def test_the_child_of_a_watch_that_was_killed_is_ended_when_there_may_be_a_fault(folder: Path) -> None:
    killed = watch(folder, HANGS)
    look(killed, killed.repersonalizer.process.is_running)  # type: ignore[union-attr]
    begin = BEGIN + round((BEFORE + DRIFT) * SECOND)
    record(folder / "spool", messages(signal(5, 60.0, seed=2, gain=0.1), "a", begin))
    look(watch(folder, ["false"]), lambda: said(folder))
    assert said(folder) == ["no new model: there may be a fault, which must not be taken for normal"]
    child = killed.repersonalizer.process._child  # type: ignore[union-attr]
    assert child is not None
    assert child.wait() == -signals.SIGKILL


def test_a_child_that_is_late_makes_way_for_an_attempt_that_knows_nothing_of_it(tmp_path: Path) -> None:
    """As when the journal of its watch is gone."""
    registry = Registry(tmp_path)
    before = Repersonalizer(tmp_path, registry, HANGS)
    before.start(SITE, "a", BEGIN)
    again = Repersonalizer(tmp_path, registry, ["true"], 0.0)

    def starts() -> bool:
        try:
            again.start(SITE, "a", BEGIN)
        except UserError:
            return False
        return True

    until(starts)
    until(lambda: not before.process.is_running())
    until(lambda: not again.process.is_running())


def test_another_process_that_has_the_number_of_an_old_one_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(HANGS, start_new_session=True) as other:
        process = BackgroundProcess(tmp_path / "one", ("one runs", "wait"))
        process.start(["sleep", "600"])
        kept = tmp_path / "one" / PROCESS
        until(lambda: kept.exists() and kept.read_text().endswith("\n"))
        before = Path(f"/proc/{other.pid}/stat").read_text().split()
        before[21] = str(int(before[21]) - 1)  # it began a tick earlier
        written = kept.read_text()
        found = BackgroundProcess(tmp_path / "one", ("one runs", "wait"))
        kept.write_text(" ".join(before))
        found.end()
        assert found.is_running()
        assert found.seconds() == 0
        assert other.poll() is None
        kept.write_text(written)
        assert 0 <= found.seconds() < LONG
        found.end()
        until(lambda: not found.is_running())
        until(lambda: not process.is_running())
        assert other.poll() is None
        other.kill()


def test_an_attempt_that_never_began_tells_nothing_of_the_one_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it had to wait for room on the disk, to be written down."""
    watcher = watch(folder, [sys.executable, "-c", "print('fml: error: no labels yet'); exit(1)"])
    look(watcher, lambda: said(folder))
    machine = watcher.state.get(SITE, "a")
    assert machine is not None
    assert machine.attempt is not None
    assert machine.attempt.reason == "no new model: no labels yet"
    later = machine.attempt.time + 601 * SECOND
    monkeypatch.setattr(module, "_now", lambda: later)
    watcher.repersonalizer.start = lambda *_: None  # type: ignore[union-attr,method-assign]
    look(watcher, lambda: machine.attempt.time == later and not machine.attempt.is_open)  # type: ignore[union-attr]
    assert machine.attempt.reason == "no new model: it was interrupted"
