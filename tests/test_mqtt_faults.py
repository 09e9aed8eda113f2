"""Every fault that a recording has to survive, against a real broker."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from probes import LONG, flood, in_background, numbers, payloads, source, spark, spooled, until
from tcp_proxy import Proxy

from fml_lightning.connectors import (
    MQTT,
    Connection,
    JSONObject,
    JSONScalar,
    Message,
    SparkplugB,
    Spool,
    SpoolSource,
    Topic,
    Topics,
)
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.decoding.decoder import Decoder
from fml_lightning.connectors.mqtt import network_thread, supervisor
from fml_lightning.connectors.mqtt import source as mqtt
from fml_lightning.connectors.mqtt.buffered_client import BufferedClient
from fml_lightning.connectors.mqtt.link import Link
from fml_lightning.connectors.mqtt.network_thread import NetworkThread
from fml_lightning.connectors.mqtt.supervisor import Supervisor
from fml_lightning.connectors.spool import recorder
from fml_lightning.connectors.spool.inbox import Inbox
from fml_lightning.connectors.spool.recorder import Recorder
from fml_lightning.errors import UserError

pytestmark = pytest.mark.long

X = "plant/a/m/x"
TIMED = Topic(codec=JSONObject(time="t", time_unit="us", value="v"))
ABSENT = Connection(port=1)
"""Where nobody listens, and nobody is given the port meanwhile."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (network_thread, supervisor):
        monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(recorder, "REST", 0.05)


@pytest.fixture
def acknowledged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The packets that were acknowledged; at the end: each over the connection that it came over."""
    came: set[tuple[int, int]] = set()
    went: list[tuple[int, int]] = []
    links: list[Link] = []  # kept, so that no two clients have the same id

    def receive(self: Link, message: Message, real: Any = Link._receive) -> None:
        links.append(self)
        came.add((id(self._client), message.packet_id))
        real(self, message)

    def acknowledge(self: BufferedClient, mids: list[int], real: Any = BufferedClient.acknowledge) -> None:
        went.extend((id(self), mid) for mid in mids)
        packets.extend(mids)
        real(self, mids)

    packets: list[int] = []
    monkeypatch.setattr(Link, "_receive", receive)
    monkeypatch.setattr(BufferedClient, "acknowledge", acknowledge)
    yield packets
    assert set(went) <= came
    assert len(set(went)) == len(went)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> list[NetworkThread]:
    """Network threads that seem to have shown no sign of life for an hour."""
    found: list[NetworkThread] = []
    real = NetworkThread.beat.fget
    assert real is not None
    beat = property(lambda self: real(self) - (3600.0 if self in found else 0.0))
    monkeypatch.setattr(NetworkThread, "beat", beat)
    return found


def through(proxy: Proxy, broker: Broker, **options: Any) -> Connection:
    return replace(broker.connection("server.recorder"), port=proxy.port, **options)


def counted(begin: int, end: int) -> Iterator[tuple[str, bytes]]:
    return ((X, b"%d" % i) for i in range(begin, end))


def until_done(readings: MQTT, count: int) -> None:
    """Wait until so many messages are durable, read and acknowledged."""
    until(lambda: readings.status().committed >= count and not readings.status().waiting, what=readings.status)


# Processes that die -------------------------------------------------------------------------------------

RECORD = """
import json, os, signal, sys
from fml_lightning.connectors import MQTT, Connection
from fml_lightning.connectors.mqtt import link, network_thread, source, supervisor
from fml_lightning.connectors.spool import dead_letters, recorder
source.DRAIN = link.GOODBYE = network_thread.LONGEST_STOP = 300.0  # however busy the machine is
folder, connection, options, before = sys.argv[1:]
exec(before)
readings = MQTT(folder, Connection(**json.loads(connection)), **json.loads(options))
signal.signal(signal.SIGTERM, lambda *_: readings.stop())
with readings:
    print("ready", flush=True)
    for _ in readings:
        pass
print(json.dumps(readings.status().redelivered), flush=True)
"""


@contextlib.contextmanager
def recording(folder: Path, broker: Broker, before: str = "", **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that records, once it is connected; killed in the end."""
    own = broker.connection("server.recorder")
    connection = {"port": own.port, "username": own.username, "password_file": own.password_file}
    options = {"client_id": "recorder", **options}
    arguments = [str(folder), json.dumps(connection), json.dumps(options), before]
    with subprocess.Popen([sys.executable, "-c", RECORD, *arguments], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def count(folder: Path) -> int:
    """Messages in a spool, by the names of its segments."""
    names = [name for name in os.listdir(folder / "segments") if name.endswith(".parquet")]
    return max((int(name.split("-")[1]) + 1 for name in names), default=0)


def test_three_kills_lose_nothing_and_repeat_nothing(tmp_path: Path, broker: Broker) -> None:
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(recording(tmp_path, broker))
        publisher = stack.enter_context(flood(broker))
        stack.enter_context(in_background(lambda: publisher.publish(counted(0, 15_000))))
        for killed_at in (2_000, 6_000, 10_000):
            until(lambda: count(tmp_path) >= killed_at)  # noqa: B023
            process.kill()
            process.wait()
            process = stack.enter_context(recording(tmp_path, broker))
        until(lambda: count(tmp_path) >= 15_000)
        process.terminate()
        assert process.wait(LONG) == 0
    assert sorted(numbers(tmp_path)) == list(range(15_000))


def test_a_kill_repeats_and_drops_none_of_equal_messages(tmp_path: Path, broker: Broker) -> None:
    with flood(broker) as publisher:
        with (
            recording(tmp_path, broker) as process,
            in_background(lambda: publisher.publish((X, b"20.0") for _ in range(4_000))),
        ):
            until(lambda: count(tmp_path) >= 1_000)
            process.kill()
        with source(tmp_path, broker) as readings:
            until(lambda: count(tmp_path) >= 4_000)
            publisher.publish([(X, b"end")])
            until(lambda: payloads(tmp_path)[-1:] == [b"end"])
            assert readings.status().received >= 1
    assert payloads(tmp_path) == [b"20.0"] * 4_000 + [b"end"]


def test_a_crash_between_durable_and_acknowledged(tmp_path: Path, broker: Broker) -> None:
    with flood(broker) as publisher:
        with recording(tmp_path, broker, "supervisor.Supervisor.acknowledge = lambda *_: os._exit(9)") as process:
            publisher.publish(counted(0, 500))
            assert process.wait(LONG) == 9
        durable = count(tmp_path)
        assert durable > 0
        with source(tmp_path, broker) as readings:
            until_done(readings, 500 - durable)
            until(lambda: readings.status().redelivered == durable)
    assert numbers(tmp_path) == list(range(500))


def test_a_crash_between_durable_and_buried(tmp_path: Path, broker: Broker) -> None:
    crash = "dead_letters.DeadLetters.bury = lambda self, letters: letters and os._exit(9)"
    with flood(broker) as publisher:
        with recording(tmp_path, broker, crash) as process:
            publisher.publish([(X, b"1"), (X, b"poison"), (X, b"2"), (X, b"more poison")])
            assert process.wait(LONG) == 9
        for _ in range(2):
            with source(tmp_path, broker) as readings:
                until(lambda: len(list(readings.recorder.dead_letters)) == 2)
    letters = list(readings.recorder.dead_letters)
    assert [letter.payload for letter in letters] == [b"poison", b"more poison"]
    assert payloads(tmp_path) == [b"1", b"poison", b"2", b"more poison"]


def test_a_termination_under_load_drains(tmp_path: Path, broker: Broker) -> None:
    has_ended = threading.Event()

    def messages() -> Iterator[tuple[str, bytes]]:
        """Without end while the recorder runs, but never more ahead of it than the broker keeps."""
        for i in itertools.count():
            while i % 1000 == 0 and i > count(tmp_path) + 40_000 and not has_ended.is_set():
                time.sleep(0.01)
            if has_ended.is_set():
                return
            yield X, b"%d" % i

    with flood(broker) as publisher:
        with recording(tmp_path, broker) as process, in_background(lambda: publisher.publish(messages())):
            until(lambda: count(tmp_path) >= 500)
            process.terminate()
            status = process.wait(LONG)
            has_ended.set()
            assert status == 0
        published = publisher.acknowledged
        with source(tmp_path, broker) as readings:
            until(lambda: count(tmp_path) == published)
            until(lambda: not readings.status().waiting)
            assert readings.status().redelivered == 0
    assert numbers(tmp_path) == list(range(published))


def test_the_broker_says_offline_for_who_was_killed(tmp_path: Path, broker: Broker) -> None:
    said: list[bytes] = []
    watcher = broker.connection("server.watcher").client("watcher")
    watcher.on_message = lambda _client, _data, message: said.append(message.payload)
    watcher.connect("127.0.0.1", broker.port)
    watcher.subscribe("state/recorder")
    watcher.loop_start()
    with recording(tmp_path, broker, status_topic="state/recorder") as process:
        until(lambda: said == [b"online"])
        process.kill()
        until(lambda: said == [b"online", b"offline"])
    watcher.disconnect()
    watcher.loop_stop()


# Brokers that are not there -----------------------------------------------------------------------------


def test_an_absent_broker_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(UserError, match=r"no connection with the broker 127.0.0.1:\d+ .*; is it running\?"),
        source(tmp_path, ABSENT),
    ):
        pass
    with (
        pytest.raises(UserError, match="no connection"),
        source(tmp_path, Connection("no.such.host.invalid", unencrypted=True)),
    ):
        pass
    assert caplog.records == []  # it is raised, so it need not be said
    with Spool(tmp_path):  # and nothing keeps it locked
        pass


@pytest.mark.parametrize("behaviour", ["ignore", "retry"])
def test_an_absent_broker_is_waited_for(
    tmp_path: Path, start_broker: Callable[..., Broker], behaviour: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = start_broker()
    first.stop()
    readings = source(tmp_path / "spool", first, startup_error_behavior=behaviour)
    if behaviour == "retry":

        def start_late() -> None:
            until(lambda: hasattr(readings, "supervisor") and readings.supervisor.network.problem)
            first.start()

        with in_background(start_late), readings:
            assert readings.status().connected
    else:
        with readings:
            until(lambda: readings.status().problem is not None)
            assert not readings.status().connected
            assert not readings.status().healthy
            first.start()
            until(lambda: readings.status().healthy)
    assert len([record for record in caplog.records if "is it running?" in record.message]) == 1


def test_attempts_come_ever_later_and_never_in_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_thread, "LONGEST_WAIT", 60.0)
    waits: list[float] = []

    def rest(self: NetworkThread, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 30:
            self.abandon()

    monkeypatch.setattr(NetworkThread, "_rest", rest)
    with source(tmp_path, ABSENT, startup_error_behavior="ignore"):
        until(lambda: len(waits) == 30)
    for i, seconds in enumerate(waits):
        longest = min(60.0, 2.0**i)
        assert longest / 2 <= seconds <= longest
    assert len(set(waits)) == 30


def test_a_port_that_takes_and_drops_is_waited_for_once_we_were_accepted(tmp_path: Path, broker: Broker) -> None:
    with Proxy(broker.port) as proxy, source(tmp_path, through(proxy, broker), max_refusals=2) as readings:
        proxy.refusing = True
        proxy.cut()
        until(lambda: len(proxy.accepted) > 6)
        assert not readings.status().healthy
        readings.check()
        proxy.refusing = False
        until(lambda: readings.status().healthy)


def test_a_broker_killed_in_the_middle(tmp_path: Path, broker: Broker) -> None:
    base = int(time.time() * 1e6)

    def message(i: int) -> tuple[str, bytes]:
        return X, b'{"t": %d, "v": %d}' % (base + i, i)

    with source(tmp_path / "spool", broker, topics=[TIMED]) as readings:
        with flood(broker) as publisher:
            publisher.publish(map(message, range(500)))
            until_done(readings, 500)
            killer = threading.Timer(0.1, broker.kill)
            killer.start()
            with pytest.raises(OSError):  # noqa: PT011
                publisher.publish(map(message, range(500, 1_000_000)))
            killer.join()
            sure = publisher.acknowledged
        until(lambda: not readings.status().connected)
        until(lambda: not readings.status().waiting)
        committed = readings.status().committed
        broker.start()
        until(lambda: readings.status().healthy)
        with flood(broker) as publisher:
            publisher.publish(map(message, range(committed - 100, committed)))  # of which it is not sure
            publisher.publish(map(message, range(sure, sure + 1_000)))
            until(lambda: payloads(tmp_path / "spool")[-1] == message(sure + 999)[1])
        until(lambda: not readings.status().waiting)
        # What we had and the publisher was not sure of came again too.
        assert readings.status().repeated == 100 + min(1000, max(0, committed - sure))
        assert readings.status().connections == 2
    values = (
        pl.concat(batch.readings for batch in SpoolSource(tmp_path / "spool").new())["values"].explode().to_list()
    )
    assert len(values) == len(set(values))
    missing = set(range(sure + 1_000)) - {int(value) for value in values}
    assert missing <= set(range(committed, sure))  # what only the broker had, in its memory
    assert len(missing) <= max(0, sure - committed)


def test_a_lost_session_is_a_gap(tmp_path: Path, broker: Broker, acknowledged: list[int]) -> None:
    with source(tmp_path / "spool", broker) as readings:
        with flood(broker) as publisher:
            publisher.publish(counted(0, 100))
            until_done(readings, 100)
        broker.stop()
        (broker.folder / "mosquitto.db").unlink()
        broker.start()
        until(lambda: readings.status().healthy and readings.status().gaps == 1)
        with flood(broker) as publisher:
            publisher.publish(counted(100, 200))  # the packet identifiers begin anew
            until_done(readings, 200)
            assert readings.status().redelivered == 0
    (line,) = (tmp_path / "spool" / "gaps.jsonl").read_bytes().splitlines()
    gap = msgspec.json.decode(line)
    assert gap["before"] == 100
    assert gap["reason"] == "the broker had lost our session"
    received = spooled(tmp_path / "spool")["received"]
    begin, end = (pl.Series([gap[key]]).str.to_datetime(time_zone="UTC")[0] for key in ("begin", "end"))
    assert received[99] == begin < end < received[100]
    assert numbers(tmp_path / "spool") == list(range(200))
    assert acknowledged == [*range(1, 101), *range(1, 101)]


@pytest.mark.parametrize("kept", [True, False])
def test_packet_identifiers_are_those_of_a_session(tmp_path: Path, kept: bool) -> None:
    """A redelivery in a new session, its first delivery lost, is none of what came in the old one."""
    inbox, went = Inbox(1000), []
    with Spool(tmp_path) as spool:
        writer = Recorder(inbox, spool, Decoder(Topics()), went.extend, lambda *_: True, group=10, interval=0.01)
        inbox.note_link(1, True)
        inbox.note_link(2, kept)
        for link in (1, 2):  # in one commit
            inbox.put(Message(X, b"20.0", 1, False, 7, link == 2, link=link))
        inbox.close()
        writer.start()
        assert writer.finish(LONG)
    assert payloads(tmp_path) == [b"20.0"] * (1 if kept else 2)
    assert [message.link for message in went] == [1, 2]
    assert (tmp_path / "gaps.jsonl").exists() is not kept


# Lines that break ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_line_cut_in_the_middle(
    tmp_path: Path, start_broker: Callable[..., Broker], version: Any, acknowledged: list[int]
) -> None:
    broker = start_broker(settings={"max_inflight_messages": "300"})
    with Proxy(broker.port) as proxy, source(tmp_path, through(proxy, broker, version=version)) as readings:
        with flood(broker) as publisher:
            for cut in range(3):
                proxy.cut_after(11_111)
                # At least 17 bytes each: however late the cut is ordered, it comes in the middle of these.
                publisher.publish(counted(1_000 * cut, 1_000 * (cut + 1)))
                until(lambda: readings.status().connections == cut + 2)  # noqa: B023
            publisher.publish(counted(3_000, 4_000))
        until_done(readings, 4_000)
        status = readings.status()
        assert (status.gaps, status.restarts) == (0, 0)
        assert status.redelivered + 4_000 == status.received
    assert numbers(tmp_path) == list(range(4_000))


def test_a_slow_disk_and_a_cut_line_send_no_stale_acknowledgement(
    tmp_path: Path, broker: Broker, acknowledged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def append(self: Spool, messages: Any, real: Any = Spool.write) -> Any:
        go.wait(LONG)
        return real(self, messages)

    monkeypatch.setattr(Spool, "write", append)
    with Proxy(broker.port) as proxy, source(tmp_path, through(proxy, broker), receive_maximum=100) as readings:
        with flood(broker) as publisher:
            publisher.publish(counted(0, 300))
        until(lambda: readings.status().received == 100)
        proxy.cut()
        until(lambda: readings.status().received == 200)  # the same again
        assert acknowledged == []
        go.set()
        until_done(readings, 300)
        assert readings.status().redelivered == 100
    assert sorted(acknowledged) == list(range(1, 301))
    assert numbers(tmp_path) == list(range(300))


def test_acknowledgements_are_not_lost_while_we_subscribe(tmp_path: Path, broker: Broker) -> None:
    """A broker sends what it has kept at once, before it grants the subscription."""
    held: list[bytes] = []

    def hold(data: bytes) -> bytes:  # the SUBACK, until all else has come
        if not released and b"\x90\x04" in data:
            held.append(data[data.index(b"\x90\x04") :])
            return data[: data.index(b"\x90\x04")]
        return data

    released = False
    with source(tmp_path, broker, receive_maximum=10):
        pass
    with flood(broker) as publisher:
        publisher.publish(counted(0, 50))
    with Proxy(broker.port) as proxy:
        proxy.change = hold
        waiting = source(tmp_path, through(proxy, broker), receive_maximum=10, startup_error_behavior="ignore")
        with waiting as readings:
            until_done(readings, 50)  # all, though no more than 10 may be unacknowledged
            released = True


def test_a_silent_line_is_noticed(tmp_path: Path, broker: Broker) -> None:
    with Proxy(broker.port) as proxy, source(tmp_path, through(proxy, broker, keepalive=1)) as readings:
        with flood(broker) as publisher:
            publisher.publish(counted(0, 100))
            until_done(readings, 100)
            proxy.stall()
            publisher.publish(counted(100, 200))
            until_done(readings, 200)
        assert readings.status().connections >= 2
    assert numbers(tmp_path) == list(range(200))


def test_fifty_connections_leave_nothing_open(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_thread, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(network_thread, "SHORT", 0.0)
    with Proxy(broker.port) as proxy, source(tmp_path, through(proxy, broker)) as readings:
        until(lambda: readings.status().connected)
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for connections in range(2, 52):
            proxy.cut()
            until(lambda: readings.status().connections == connections and readings.status().connected)  # noqa: B023
        until(lambda: len(proxy._lines) == 1)
        until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # a gap may still be being noted
    assert readings.status().restarts == 0


# Disks that fail ----------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_inflow_and_recovers(
    full_disk: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    folder, filler = full_disk / "spool", full_disk / "filler"
    # mosquitto 2.0.11 holds to ReceiveMaximum only until the first acknowledgement, so there is none before.
    with source(folder, broker, receive_maximum=20) as readings, flood(broker) as publisher:
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(300_000))
        publisher.publish(counted(0, 200))
        until(lambda: readings.status().problem is not None and readings.status().lag > 0.2)
        until(lambda: readings.status().received >= 20)
        status = readings.status()
        assert not status.healthy
        assert status.problem is not None
        assert "No space left on device; nothing is acknowledged meanwhile" in status.problem
        assert (status.committed, status.received, status.waiting) == (0, 20, 20)
        filler.unlink()
        until_done(readings, 200)
        assert readings.status().healthy
        assert readings.status().redelivered == 0
    assert numbers(folder) == list(range(200))
    assert len([r for r in caplog.records if "No space left" in r.message]) == 1  # said once, not at each attempt
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(300_000))
    with source(folder, broker) as readings:  # after a restart it waits again
        assert readings.status().connected
    with (
        pytest.raises(UserError, match=r"cannot write topics\.json: No space"),
        source(folder, broker, topics=[TIMED]),
    ):
        pass


@pytest.mark.parametrize("fails", ["file", "folder"])
def test_a_sync_that_fails_is_no_acknowledgement(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, acknowledged: list[int], fails: str
) -> None:
    failing, calls = threading.Event(), []

    def fsync(descriptor: int, real: Any = os.fsync) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        if failing.is_set() and is_folder == (fails == "folder"):
            calls.append(descriptor)
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with source(tmp_path, broker) as readings, flood(broker) as publisher:
        failing.set()
        publisher.publish(counted(0, 300))
        until(lambda: len(calls) > 5 and readings.status().problem is not None)
        assert acknowledged == []
        assert "Input/output error" in str(readings.status().problem)
        failing.clear()
        until_done(readings, 300)
        assert readings.status().healthy
    assert numbers(tmp_path) == list(range(300))


def test_it_ends_though_the_disk_fails(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "DRAIN", 0.2)
    monkeypatch.setattr(recorder, "REST", LONG)  # which the end cuts short, and then waits for at most
    failing = threading.Event()

    def append(self: Spool, messages: Any, real: Any = Spool.write) -> Any:
        if failing.is_set():
            raise OSError(errno.EIO, "Input/output error")
        return real(self, messages)

    monkeypatch.setattr(Spool, "write", append)
    failing.set()
    with flood(broker) as publisher, source(tmp_path, broker) as readings:
        publisher.publish(counted(0, 100))
        until(lambda: readings.status().problem)
    failing.clear()
    with source(tmp_path, broker) as readings:
        until_done(readings, 100)
    assert numbers(tmp_path) == list(range(100))


def test_a_gap_is_noted_though_the_disk_was_full(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()

    def note_lost_session(self: Spool, *gap: Any, real: Any = Spool.note_lost_session) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *gap)

    monkeypatch.setattr(Spool, "note_lost_session", note_lost_session)
    with flood(broker) as publisher, source(tmp_path, broker) as readings:
        publisher.publish(counted(0, 1))
        until_done(readings, 1)
    full.set()
    other = broker.connection("server.second")  # whose session the broker does not know
    with source(tmp_path, other) as readings:
        until(lambda: "No space left" in str(readings.status().problem))
        assert readings.status().connected
        full.clear()
        until(lambda: readings.status().healthy)
    assert len((tmp_path / "gaps.jsonl").read_bytes().splitlines()) == 1


def test_a_slow_disk_bounds_what_is_in_memory(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than keepalive, so that the line is lost meanwhile: what comes again must find room first."""
    go, most, size = threading.Event(), [0], 20_000

    def append(self: Spool, messages: Any, real: Any = Spool.write) -> Any:
        go.wait(LONG)
        return real(self, messages)

    def put(self: Any, message: Any, real: Any = Inbox.put) -> None:
        real(self, message)  # which never waits: the disk takes nothing until `go`
        most[0] = max(most[0], self._put_size - self._released_size)

    monkeypatch.setattr(Spool, "write", append)
    monkeypatch.setattr(Inbox, "put", put)
    connection = replace(broker.connection("server.recorder"), keepalive=1)
    with source(tmp_path, connection, max_waiting_bytes=50 * size) as readings, flood(broker) as publisher:
        publisher.publish((X, (b"%d" % i).ljust(size)) for i in range(400))
        # The broker's pings are behind what we do not read.
        until(lambda: readings.inbox.full and not readings.status().connected)
        attempts = readings.supervisor.network.attempts
        time.sleep(0.5)
        assert readings.supervisor.network.attempts == attempts  # a new connection would bring the same again
        assert readings.status().waiting <= 50 + 4  # what one more read may bring
        go.set()
        until_done(readings, 400)
    assert most[0] <= 100 * size
    assert numbers(tmp_path) == list(range(400))


# Bugs, ours and others' ---------------------------------------------------------------------------------


def test_a_codec_with_a_bug_buries_what_it_stumbles_over(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(self: JSONScalar, payload: bytes, real: Any = JSONScalar.decode) -> Any:
        if payload == b"poison":
            raise ZeroDivisionError("a bug")
        return real(self, payload)

    monkeypatch.setattr(JSONScalar, "decode", decode)
    for _ in range(2):
        with source(tmp_path, broker) as readings, flood(broker) as publisher:
            publisher.publish([(X, b"1"), (X, b"poison"), (X, b"2")])
            until_done(readings, 3)
            assert readings.status().dead_letters == 1
            readings.stop()
            assert sum(len(batch.readings) for batch in readings) == 2
    letters = list(readings.recorder.dead_letters)
    assert [(letter.topic, letter.payload) for letter in letters] == [(X, b"poison")] * 2
    assert "ZeroDivisionError: a bug" in letters[0].error


@pytest.mark.parametrize("max_packet_bytes", [1 << 20, 16 << 20])  # read past, or kept
def test_a_message_may_take_longer_than_any_timeout(tmp_path: Path, broker: Broker, max_packet_bytes: int) -> None:
    options = {"max_packet_bytes": max_packet_bytes, "startup_error_behavior": "retry"}
    with source(tmp_path, broker, **options):
        pass  # from now on the broker keeps what is sent
    with flood(broker) as publisher:
        publisher.publish([(X, b"1"), (X, b"2" * 3_000_000), (X, b"3")])
    with Proxy(broker.port) as proxy:
        proxy.change = slowly
        with source(tmp_path, through(proxy, broker, timeout=5.0, keepalive=5), **options) as readings:
            until_done(readings, 3)
            assert readings.status().connections == 1
    kept = 3_000_000 if max_packet_bytes > 3_000_000 else 0
    assert [len(payload) for payload in payloads(tmp_path)] == [1, kept, 1]


def slowly(data: bytes) -> bytes:
    """0.25 MB/s."""
    time.sleep(len(data) / 2.5e5)
    return data


def link(number: int) -> Link:
    """A link that is not connected."""
    return Link(Connection(), MQTT("spool").session, Inbox(1), number, False, threading.Event(), threading.Event())


def test_a_lost_connection_leaves_nothing_in_memory() -> None:
    lost = link(1)
    client = weakref.ref(lost._client)
    lost.close()
    gc.disable()
    try:
        del lost
        assert client() is None
    finally:
        gc.enable()


def test_an_exception_in_the_network_thread_costs_a_connection(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [RuntimeError("a bug of paho's"), RuntimeError("a bug of ours")]

    def receive(self: Link, *arguments: Any, real: Any = Link._receive) -> None:
        if failures and self.inbox.put_count % 100 == 50:
            raise failures.pop()
        real(self, *arguments)

    monkeypatch.setattr(Link, "_receive", receive)
    with source(tmp_path, broker) as readings, flood(broker) as publisher:
        publisher.publish(counted(0, 500))
        until_done(readings, 500)
        assert readings.status().connections == 3
        assert readings.status().restarts == 0
    assert numbers(tmp_path) == list(range(500))
    assert "the link to 127.0.0.1" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_network_thread_that_dies_is_replaced(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = threading.Event()

    def turn(self: Link, *arguments: Any, real: Any = Link._turn, **options: Any) -> Any:
        if dying.is_set():
            dying.clear()
            raise SystemExit
        return real(self, *arguments, **options)

    monkeypatch.setattr(Link, "_turn", turn)
    with source(tmp_path, broker) as readings, flood(broker) as publisher:
        publisher.publish(counted(0, 100))
        until_done(readings, 100)
        dying.set()
        until(lambda: not dying.is_set())
        publisher.publish(counted(100, 200))
        until_done(readings, 200)
        assert readings.status().restarts == 1
        assert readings.status().healthy
    assert numbers(tmp_path) == list(range(200))


def test_a_network_thread_that_hangs_is_replaced(
    tmp_path: Path,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    acknowledged: list[int],
    hung: list[NetworkThread],
) -> None:
    hanging, go = threading.Event(), threading.Event()

    def turn(self: Link, *arguments: Any, real: Any = Link._turn, **options: Any) -> Any:
        if hanging.is_set():
            hanging.clear()
            go.wait(LONG)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Link, "_turn", turn)
    with source(tmp_path, broker) as readings, flood(broker) as publisher:
        publisher.publish(counted(0, 100))
        until_done(readings, 100)
        old = readings.supervisor.network
        hanging.set()
        until(lambda: not hanging.is_set())
        hung.append(old)
        publisher.publish(counted(100, 200))
        until_done(readings, 200)
        assert readings.supervisor.network is not old
        go.set()
        until(lambda: not old.alive)
        publisher.publish(counted(200, 300))
        until_done(readings, 300)
        assert (readings.status().restarts, readings.status().healthy) == (1, True)
    assert numbers(tmp_path) == list(range(300))


def test_a_thread_that_hangs_takes_no_acknowledgement_from_the_one_in_its_place(
    tmp_path: Path,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    acknowledged: list[int],
    hung: list[NetworkThread],
) -> None:
    """It comes round, and looks for what to send, while acknowledgements of its successor wait to be sent."""
    hanging, go, holding = threading.Event(), threading.Event(), threading.Event()
    first: list[Link] = []

    def send(self: Link, real: Any = Link._send) -> None:
        first.append(self)
        if self is first[0] and hanging.is_set():
            hanging.clear()
            go.wait(LONG)
        elif self is not first[0] and holding.is_set():
            return
        real(self)

    monkeypatch.setattr(Link, "_send", send)
    with source(tmp_path, broker) as readings, flood(broker) as publisher:
        publisher.publish(counted(0, 100))
        until(lambda: len(acknowledged) == 100)
        old = readings.supervisor.network
        holding.set()
        hanging.set()
        until(lambda: not hanging.is_set())
        hung.append(old)
        publisher.publish(counted(100, 200))
        until(lambda: readings.status().committed == 200 and not readings.status().waiting)
        go.set()
        until(lambda: not old.alive)
        assert len(acknowledged) == 100
        holding.clear()
        until(lambda: len(acknowledged) == 200)
        assert readings.status().restarts == 1
    assert numbers(tmp_path) == list(range(200))


def test_what_is_sent_over_a_link_is_what_came_over_it() -> None:
    watching = Supervisor(Connection(), MQTT("spool").session, Inbox(1))
    assert not watching.publish("a", b"request")  # nobody to send it: the recorder keeps it
    stale = watching.network._link = link(1)
    watching.network.connected = True
    assert watching.publish("a", b"request")
    watching.network = watching.network.successor()
    new = watching.network._link = link(2)
    messages = [Message(X, b"1", 1, packet_id=i, link=i % 3) for i in (7, 8, 0)]  # over 1, over 2, at QoS 0
    watching.acknowledge(messages)
    assert (list(stale.outbox.packet_ids), list(new.outbox.packet_ids)) == ([], [8])
    assert (list(stale.outbox.messages), list(new.outbox.messages)) == ([("a", b"request")], [])
    stale.close()
    new.close()
    watching.acknowledge(messages)  # a link that has ended can still be told


def test_a_broker_that_stays_away_is_no_hanging_thread(tmp_path: Path, broker: Broker) -> None:
    with source(tmp_path, broker) as readings:
        network = readings.supervisor.network
        broker.stop()
        for _ in range(5):
            attempts, beat = network.attempts, network.beat
            until(lambda: network.attempts > attempts + 1)  # noqa: B023
            assert network.beat > beat  # each attempt is a sign of life
        assert readings.status().restarts == 0


def test_a_recorder_that_breaks_says_so(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Spool, "write", append)
    with source(tmp_path, broker) as readings, flood(broker) as publisher:
        publisher.publish(counted(0, 1))
        with pytest.raises(UserError, match="ended by a bug of ours: RuntimeError: a bug"):
            list(readings)
        assert not readings.status().healthy
    monkeypatch.undo()
    with source(tmp_path, broker) as readings:
        until_done(readings, 1)


# What waits for a connection -------------------------------------------------------------------------------


def test_what_a_codec_asks_for_waits_for_a_connection(tmp_path: Path) -> None:
    """Recorded while the line is down: the request goes out once there is one to take it."""
    topics: set[str] = set()
    taken: list[bool] = []  # whether each request was
    is_connected = threading.Event()

    def publish(topic: str, payload: bytes) -> bool:
        topics.add(topic)
        taken.append(is_connected.is_set())
        return taken[-1]

    inbox = Inbox(1000)
    with Spool(tmp_path) as spool:
        decoder = Decoder(Topics((Topic("spBv1.0/#", SparkplugB()),)))
        writer = Recorder(inbox, spool, decoder, lambda _: None, publish, group=10, interval=0.01)
        inbox.put(Message("spBv1.0/Ulm/NDATA/edge", spark(1, {"alias": 1, "float_value": 1.0}), 1))
        writer.start()
        until(lambda: len(taken) >= 2)
        is_connected.set()
        until(lambda: any(taken))
        inbox.put(Message("spBv1.0/Ulm/NDEATH/edge", spark(2), 1))
        until(lambda: writer.committed == 2)
        inbox.close()
        assert writer.finish(LONG)
    assert topics == {"spBv1.0/Ulm/NCMD/edge"}
    assert taken.count(True) == 1  # and no more
