"""A watch of spools of which some cannot be read."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import until
from test_watch import HEALTHY, RULES, SICK, look_at_models, score_all, scored, story, watch
from watched import LENGTH, RATE, SITE, card, give_models, messages, model, record, signal

from fml_lightning import durable
from fml_lightning.connectors.messages import Message
from fml_lightning.live import unread
from fml_lightning.live.scoring import RegistryModels
from fml_lightning.live.watcher import Settings, Watcher
from fml_lightning.personal.registry import Registry
from fml_lightning.preprocessing import LogBandPowers, Preprocessing, Windowing


def test_a_spool_that_is_not_there_yet_is_told_and_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    give_models(tmp_path, "a")
    watcher = watch(tmp_path)
    for _ in range(3):
        score_all(watcher)
        why = f"there is no spool in {tmp_path}/spool; start fml record, or mend the path"
        assert watcher.problems() == [f"site {SITE} is not scored: {why}"]
    record(tmp_path / "spool", story("a", (3, HEALTHY)))
    score_all(watcher)
    assert watcher.problems() == []
    assert len(scored(tmp_path)) == 12
    assert [each.message[:25] for each in caplog.records] == [
        "site plant is not scored:",
        "site plant: its spool can",
    ]


@contextmanager
def topics_damaged(folder: Path) -> Iterator[None]:
    """What says how a spool is read is no such thing."""
    path = folder / "topics.json"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    yield
    path.write_bytes(content)


@contextmanager
def disk_failing(folder: Path) -> Iterator[None]:
    """No file of a spool's can be opened."""
    real = durable.open_regular

    def open_regular(path: Path) -> Any:
        if path.is_relative_to(folder):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "open_regular", open_regular)
        yield


@contextmanager
def moved_away(folder: Path) -> Iterator[None]:
    """There is no spool, as on a disk that is not mounted."""
    folder.rename(folder.with_name("away"))
    yield
    folder.with_name("away").rename(folder)


@pytest.mark.parametrize("damage", [topics_damaged, moved_away])
@pytest.mark.parametrize("keeps", [False, True])
def test_started_anew_it_waits_for_a_spool_that_cannot_be_read(
    damage: Callable[[Path], AbstractContextManager[None]],
    keeps: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where windows are longer than messages, those that were begun before are not lost."""
    monkeypatch.setattr(unread, "AGAIN", 0.0)
    streams = [
        [message._replace(topic=f"plant/{site}/{machine}/vibration") for message in story_of_blocks(machine)]
        for site, machine in ((SITE, "a"), ("other", "b"))
    ]
    rows = []
    for name in ("undisturbed", "disturbed"):
        run = tmp_path / name
        spools = {SITE: run / "spool", "other": run / "other"}
        models = give_models(run, "a")
        models.add(model(site="other", machine="b"), card("b", "other"))

        def watch_both(run: Path = run, models: Registry = models, spools: dict[str, Path] = spools) -> Watcher:
            return score_all(Watcher(run / "watch", spools, RegistryModels(models), Settings(RULES)))

        for folder, stream in zip(spools.values(), streams, strict=True):
            record(folder, stream[:10])
        watcher = watch_both()
        if keeps:
            watcher.keep()
        for folder, stream in zip(spools.values(), streams, strict=True):
            record(folder, stream[10:25])
        watcher = score_all(watcher)
        if name == "disturbed":
            with damage(spools["other"]):
                record(spools[SITE], streams[0][25:])
                watcher = watch_both()
                assert watcher.problems()[0].startswith("site other is not scored: ")
                watcher.keep()
                watcher = watch_both()
                assert watcher.problems()[0].startswith("site other is not scored: ")
        else:
            record(spools[SITE], streams[0][25:])
        record(spools["other"], streams[1][25:])
        score_all(watcher)
        assert watcher.problems() == []
        rows.append(scored(run))
    assert rows[0] == rows[1]


def test_a_model_that_came_before_a_spool_could_not_be_read_cuts_from_its_message_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where snapshots were written meanwhile."""
    monkeypatch.setattr(unread, "AGAIN", 0.0)
    stream = story_of_blocks("a")
    rows = []
    for name in ("undisturbed", "disturbed"):
        run = tmp_path / name
        models = give_models(run, "a")
        record(run / "spool", stream[:10])
        watcher = score_all(watch(run))
        watcher.keep()
        record(run / "spool", stream[10:18])
        score_all(watcher)
        longer = model(machine="a")
        longer.preprocessing = Preprocessing(
            Windowing(length=2 * LENGTH, hop=LENGTH), LogBandPowers(bands=4), ("vibration",), RATE
        )
        models.add(longer, card("a"))
        look_at_models(watcher)
        record(run / "spool", stream[18:25])
        score_all(watcher)
        if name == "disturbed":
            with moved_away(run / "spool"):
                score_all(watch(run)).keep()
                score_all(watch(run)).keep()
            watcher = score_all(watch(run))
        record(run / "spool", stream[25:])
        score_all(watcher)
        rows.append(scored(run))
    assert rows[0] == rows[1]
    assert len({row[5] for row in rows[0]}) == 2


def story_of_blocks(machine: str) -> list[Message]:
    """Messages that are shorter than a window."""
    return messages(np.concatenate([signal(5, HEALTHY, 1), signal(5, SICK, 2)]), machine, block=LENGTH - 60)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (topics_damaged, "spool {folder}: topics: expected"),
        (disk_failing, "[Errno 5] Input/output error: '{folder}/segments/"),
    ],
)
def test_a_spool_that_cannot_be_read_keeps_no_other_site_from_being_watched(
    damage: Callable[[Path], AbstractContextManager[None]],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(unread, "AGAIN", 0.0)
    spools = {SITE: tmp_path / "spool", "other": tmp_path / "other"}
    models = give_models(tmp_path, "a")
    models.add(model(site="other", machine="b"), card("b", "other"))
    here = story("a", (5, HEALTHY), (5, SICK))
    there = [m._replace(topic="plant/other/b/vibration") for m in here]
    settings = Settings(RULES, stale=0.1)
    watcher = Watcher(tmp_path / "watch", spools, RegistryModels(models), settings)

    def reason(machine: str) -> str:
        return next(view.reason for view in watcher.views() if view.machine == machine)

    for half in (slice(20), slice(20, None)):
        record(spools[SITE], here[half])
        record(spools["other"], there[half])
        with nullcontext() if half.start is None else damage(spools["other"]):
            score_all(watcher)
            score_all(watcher)
            if half.start:
                assert [each[0] for each in scored(tmp_path)] == ["a"] * 40 + ["b"] * 20
                [problem] = watcher.problems()
                assert problem.startswith(f"site other is not scored: {why.format(folder=spools['other'])}")
                until(
                    lambda: not watcher.look(threading.Event()) and reason("b").startswith("no data for 0.1 s: ")
                )
    score_all(watcher)
    assert watcher.problems() == []
    a, b = ([each[1:] for each in scored(tmp_path) if each[0] == machine] for machine in "ab")
    assert a == b
    said = [each.message for each in caplog.records if "other" in each.message]
    assert [each.partition(":")[0] for each in said] == ["site other is not scored", "site other"]
