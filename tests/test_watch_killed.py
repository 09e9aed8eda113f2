"""What befalls a watch: kills, brokers that are away or refuse, disks that are full, power cuts."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from msgspec import Raw
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from probes import LONG, needs_mosquitto, until
from test_watch import HEALTHY, SICK, After, score_all, scored, story, told, watch
from test_watch_publishing import listening, publisher, windows
from watched import endless, give_models, in_time, record

from benchmarks.killed import RULES, STATUS, Trial, found
from benchmarks.new_machine import new_machine
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.live import follower as follower_module
from fml_lightning.live import publisher as module
from fml_lightning.live.journal import recovered
from fml_lightning.live.log import BEGIN as LOG_BEGIN
from fml_lightning.live.log import Log, Place
from fml_lightning.live.messages import Topics
from fml_lightning.live.outbox import Outbox, Outgoing

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).parent.parent


def launch(command: Sequence[str], log: Path) -> Forked:
    """Fork a process that has imported what takes long."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return Forked(command, log, log.parent, environment)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    """Three machines, of which one has a fault that comes and goes."""
    needs_mosquitto()
    give_models(tmp_path / "run", "a", "b", "c")
    with Trial(tmp_path, endless("a", "b", "c"), launch) as made:
        yield made


def test_watch_broker_and_recorder_are_killed_and_nothing_is_lost_or_doubled(trial: Trial) -> None:
    for victims in (["watch"], ["broker"], ["recorder"], ["watch", "broker"], ["recorder", "watch"]):
        trial.kill_some(victims)
    trial.until(lambda: b"cleared" in b"".join(payload for _, payload in trial.heard[-500:]))
    trial.stop_plant()
    statuses = [payload for topic, payload in trial.heard if topic == STATUS]
    trial.kill("watch")  # at rest, so that nothing but its last will is said
    trial.until(lambda: [payload for topic, payload in trial.heard if topic == STATUS] == [*statuses, b"offline"])
    trial.start("watch")
    trial.until(lambda: trial.heard[-1] == (STATUS, b"online") or trial.heard[-1][0] != STATUS)
    retained = trial.retained()
    assert trial.stop("watch") == 0
    assert trial.stop("recorder") == 0
    counted = trial.check()
    assert counted["kills"] == 8
    assert counted["alarm changes"] >= 2
    assert len(retained) == 9, sorted(retained)
    assert {topic.split("/")[0] for topic in retained} == {"homeassistant"}
    names = {json.loads(payload)["device"]["name"] for payload in retained.values()}
    assert names == {"plant a", "plant b", "plant c"}
    said = trial.said("watch") + trial.said("recorder")
    assert "Traceback" not in said, said


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with what two machines have sent."""
    give_models(tmp_path, "a", "b")
    a = story("a", (4, HEALTHY), (6, SICK), (8, HEALTHY))
    record(tmp_path / "spool", in_time(a, story("b", (18, HEALTHY), seed=5)))
    return tmp_path


def every_window(run: Path) -> set[tuple[str, int]]:
    """Machine and message of each window that was scored."""
    return {(row[0], row[1]) for row in scored(run)}


# Brokers ----------------------------------------------------------------------------------------------------


def test_what_a_broker_forgets_that_is_killed_is_published_again(
    run: Path, start_broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD", LONG)  # however long scoring takes
    broker = start_broker(settings={"autosave_interval": "3600"})  # it writes nothing down but when it is stopped
    heard: list[tuple[str, bytes, bool]] = []

    def listen() -> Any:
        client: Any = broker.connection("server.watcher").client("listener", Client)
        ready = threading.Event()
        client.on_connect = lambda *_: client.subscribe("fml/#", qos=1)
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = lambda _c, _u, m: heard.append((m.topic, bytes(m.payload), m.retain))
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        client.connect(broker.host, broker.port, clean_start=False, properties=properties)
        client.loop_start()
        assert ready.wait(LONG)
        return client

    listen().disconnect()  # its session stays
    broker.stop()
    broker.start()
    watcher = watch(run, Topics())
    with publisher(watcher, broker.connection("server"), Topics()) as publishing:
        score_all(watcher)
        until(lambda: publishing.flush(0.0, threading.Event()))
        broker.kill()
        until(lambda: publishing.problem is not None)
        assert "it is kept, and published when that is mended" in str(publishing.problem)
        monkeypatch.setattr(module, "HELD", 0.3)
        time.sleep(1.0)  # the time that it is away does not count
        broker.start()
        client = listen()
        until(lambda: set(windows(heard)) == every_window(run))
        until(lambda: publishing.problem is None and publishing.flush(0.0, threading.Event()))
    client.disconnect()
    client.loop_stop()


def test_a_message_that_is_refused_is_not_lost_and_that_is_said_once(
    run: Path,
    start_broker: Callable[..., Broker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.02)
    broker = start_broker(acl={"server": ["write fml/watch/status", "write fml/plant/b/#"]})
    connection = broker.connection("server")
    tries = count_tries(monkeypatch)
    watcher = watch(run, Topics())
    with publisher(watcher, connection, Topics()) as publishing, caplog.at_level(logging.WARNING):
        score_all(watcher)
        until(lambda: len(tries) >= 4)
        assert "refuses a message of the user" in str(publishing.problem)
        assert caplog.text.count("refuses a message of the user") == 1
        again = start_broker()  # which allows it
        with listening(again, "fml/#") as heard:
            publishing.connection = again.connection("server")
            until(lambda: set(windows(heard)) == every_window(run))
            until(lambda: publishing.problem is None)


def test_a_wrong_password_is_said_once_and_can_be_mended(
    run: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.02)
    monkeypatch.setattr(module, "ALIVE", 0.05)
    password = run / "password"
    password.write_text("wrong")
    connection = replace(broker.connection("server"), password_file=str(password))
    tries = count_tries(monkeypatch)
    watcher = watch(run, Topics())
    with (
        listening(broker, "fml/#") as heard,
        publisher(watcher, connection, Topics()) as publishing,
        caplog.at_level(logging.WARNING),
    ):
        score_all(watcher)
        until(lambda: len(tries) >= 4)
        assert len(every_window(run)) == 144  # scoring does not wait
        assert "refuses the user 'server'" in str(publishing.problem)
        assert caplog.text.count("refuses the user") == 1
        password.write_text(broker.password_file("server").read_text())
        until(lambda: set(windows(heard)) == every_window(run) and publishing.problem is None)
        # Who comes late is told too that the watch is there.
        until(lambda: [topic for topic, _, _ in heard].count(STATUS) >= 3)
        assert {payload for topic, payload, _ in heard if topic == STATUS} == {b"online"}


def count_tries(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows whenever a connection for publishing is tried."""
    tries: list[None] = []
    real = module.Publisher.__enter__

    def enter(self: module.Publisher) -> module.Publisher:
        tries.append(None)
        return real(self)

    monkeypatch.setattr(module.Publisher, "__enter__", enter)
    return tries


# Disks ------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_and_is_made_room_on(full_disk: Path, tmp_path: Path) -> None:
    give_models(full_disk, "a", "b")
    a = story("a", (20, HEALTHY), (6, SICK), (10, HEALTHY), (6, SICK), (6, HEALTHY))
    every = in_time(a, story("b", (48, HEALTHY), seed=9))
    spool = tmp_path / "spool"
    record(spool, every[:100])
    alarm = {"on_delay": RULES.alarm.on_delay, "off_delay": RULES.alarm.off_delay, "stale": "1h"}
    # There is no broker: all that is to be published stays on the disk.
    config = {
        "spools": {"plant": str(spool)},
        "alarm": alarm,
        "drift": {"baseline": RULES.drift.baseline},
        "publish": {"topic": "fml/{machine}"},
        "connection": {"port": 9},
    }
    (tmp_path / "watch.json").write_text(json.dumps(config))
    log, ballast = tmp_path / "log", full_disk / "ballast"
    log.touch()
    command = ["fml_lightning", "watch", str(full_disk), "--config", str(tmp_path / "watch.json")]

    def fill() -> None:
        with ballast.open("ab", buffering=0) as file:
            for size in (4096, 256, 16, 1):
                try:
                    while True:
                        file.write(b"0" * size)
                except OSError:
                    pass

    process = launch(command, log)
    try:
        until(lambda: process.poll() is not None or len(scored(full_disk)) == 100, what=log.read_text)
        fill()
        record(spool, every[100:200])
        until(lambda: "make room, and it goes on" in log.read_text())
        process.kill()  # and it starts again while the disk is full
        process.wait()
        before = len(scored(full_disk))
        process = launch(command, log)
        until(lambda: process.poll() is not None or log.read_text().count("make room") == 2, what=log.read_text)
        assert len(scored(full_disk)) == before
        ballast.unlink()
        record(spool, every[200:])
        until(lambda: process.poll() is not None or len(scored(full_disk)) == len(every), what=log.read_text)
        process.terminate()
        assert process.wait(LONG) == 0, log.read_text()
    finally:
        process.kill()
    said = log.read_text()
    assert "Traceback" not in said, said
    assert said.count("it can be written to again; scoring goes on") == 1
    whole = tmp_path / "whole"
    give_models(whole, "a", "b")
    shutil.copytree(spool, whole / "spool")
    score_all(watch(whole))
    assert scored(full_disk) == scored(whole)
    assert found(full_disk / "watch").alarms == found(whole / "watch").alarms
    published = told(full_disk)
    assert sorted((each["machine"], window[0]) for each in published for window in each["windows"]) == sorted(
        (row[0], row[1]) for row in scored(whole)
    )


def test_a_power_cut_loses_nothing_of_what_is_to_be_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is cut in what was not acknowledged, the outbox anywhere after what was made to last."""
    monkeypatch.setattr(Log.__init__, "__defaults__", (6_000, True))
    monkeypatch.setattr(follower_module, "MOST", 7)
    monkeypatch.setattr(follower_module, "JOINED", 7)
    generator = random.Random(0)
    watcher = watch(run, Topics())
    assert watcher.outbox is not None
    lasts = LOG_BEGIN  # up to where a snapshot relies on the outbox
    for number in range(6):
        watcher.step(After(2))
        if number in (1, 3):
            watcher.keep()
            lasts = watcher.outbox.log.end
    ends = list(watcher.outbox.after(LOG_BEGIN))
    newest = max(watcher.outbox.log.folder.iterdir())
    assert int(newest.stem) >= 2
    first = lasts.offset if lasts.segment == int(newest.stem) else 0
    assert first < newest.stat().st_size
    whole = run.with_name("whole")
    shutil.copytree(run, whole)
    score_all(watch(whole, Topics()))
    for trial in range(12):
        cut = run.with_name(f"cut{trial}")
        shutil.copytree(run, cut)
        box = cut / "watch/outbox" / newest.name
        os.truncate(box, generator.randrange(first, box.stat().st_size))
        published = generator.choice([end for end, _ in ends])
        (cut / "watch/published.json").write_text(json.dumps(published))
        with max((cut / "watch/journal").iterdir()).open("ab") as file:
            file.write(b'0badc0de {"type":"scored","spool":"pl'[: generator.randrange(37)])
        watch(cut, Topics())  # it is killed right after it has begun
        score_all(watch(cut, Topics()))
        assert scored(cut) == scored(whole)
        outbox = Outbox(cut / "watch/outbox", cut / "watch/published.json")
        before = [json.loads(bytes(each.payload)) for end, each in ends if end <= Place(*published)]
        after = [json.loads(bytes(each.payload)) for _, each in outbox.after(outbox.taken)]
        heard = {(each["machine"], window[0]) for each in before + after for window in each["windows"]}
        assert heard == every_window(whole)
        numbers = {(each["machine"], change["number"]) for each in before + after for change in each["changes"]}
        assert numbers == {
            (machine, change.number)
            for machine, changes in found(whole / "watch").changes.items()
            for change in changes
        }


def test_an_outbox_whose_end_is_lost_with_the_power_publishes_what_takes_its_place(tmp_path: Path) -> None:
    def message(number: int, text: str) -> Outgoing:
        return Outgoing((1, number, 1), "t", Raw(json.dumps(text).encode()))

    published = tmp_path / "published.json"
    box = Outbox(tmp_path / "outbox", published)
    box.put([message(number, "long " * 9) for number in range(1, 6)])
    ends = [end for end, _ in box.after(LOG_BEGIN)]
    box.note_published(ends[-1])
    os.truncate(tmp_path / "outbox/00000001.log", ends[1].offset + 7)
    for _ in range(2):  # the second time, the place that is noted lies within a message
        box = Outbox(tmp_path / "outbox", published)
        box.put([message(number, str(number)) for number in range(3, 9)])
        assert [bytes(each.payload) for _, each in box.after(box.taken)][-1] == b'"8"'
    assert [each.record[1] for _, each in box.after(ends[1])] == [3, 4, 5, 6, 7, 8]


def test_only_the_newest_segment_can_be_cut_by_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), real(file))[1]
    )
    log = Log(tmp_path / "log", segment=40)
    for _ in range(9):
        log.append([b"twenty bytes or so.."], sync=False)
    *before, newest = sorted(str(path) for path in (tmp_path / "log").iterdir())
    assert [path for path in synced if path.endswith(".log")] == before
    assert newest not in synced


def test_a_snapshot_whose_folder_cannot_be_synced_hides_no_later_record(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "MOST", 40)
    monkeypatch.setattr(follower_module, "JOINED", 40)
    watcher = watch(run)
    watcher.step(After(1))

    def fail(_folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr("fml_lightning.durable.sync_folder", fail)
        watcher.keep()
    score_all(watcher)
    assert recovered(run / "watch").positions == watcher.state.positions
    score_all(watch(run))
    assert len(scored(run)) == len(every_window(run)) == 144


def test_nobody_is_stale_while_the_disk_is_full(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.live.watcher.RETRY", 0.0)
    watcher = score_all(watch(run, stale=1e-6))
    record(run / "spool", story("a", (20, HEALTHY))[72:])

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Log, "append", fail)
        for _ in range(5):
            watcher.look(threading.Event())
        assert watcher.problem is not None
    score_all(watcher)
    assert {change.what for change in found(run / "watch").changes["a"]} == {"model", "raised", "cleared"}


# A new machine ----------------------------------------------------------------------------------------------


def test_a_new_machine_is_watched_after_personalize_without_a_restart(
    tmp_path: Path, start_broker: Callable[..., Broker]
) -> None:
    found = new_machine(tmp_path, launch)
    assert found["labelled windows per class"] == 5
    said = (tmp_path / "fml.log").read_text()
    assert "plant/new NORMAL" in said
    assert "Traceback" not in said, said
