from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from probes import flood, in_background, numbers, payloads, source, until, until_done
from tcp_proxy import Proxy

from fml_lightning.connectors import (
    MQTT,
    Batch,
    Connection,
    Connector,
    JSONBatch,
    JSONObject,
    LabelTopic,
    Message,
    Quality,
    Spool,
    SpoolSource,
    Topic,
    WaveformBlock,
    encode_waveform,
)
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.mqtt import network_thread, supervisor
from fml_lightning.connectors.mqtt.link import Link
from fml_lightning.connectors.spool.inbox import Inbox
from fml_lightning.errors import UserError

X = "plant/a/m/x"
TIMED = Topic(codec=JSONObject(time="t", time_unit="us", value="v"))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (network_thread, supervisor):
        monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)


def read(folder: Path) -> Batch:
    """All that a spool says."""
    batches = list(SpoolSource(folder).new())
    return Batch(pl.concat(b.readings for b in batches), pl.concat(b.labels for b in batches))


def values(folder: Path) -> list[float]:
    return read(folder).readings["values"].explode().to_list()


def now(seconds: float = 0.0) -> int:
    return int((time.time() + seconds) * 1e6)


# What works ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_readings_and_labels_arrive_and_are_kept(tmp_path: Path, broker: Broker, version: Any) -> None:
    connection = replace(broker.connection("server.recorder"), version=version)
    seen: list[Batch] = []
    with flood(broker) as publisher, source(tmp_path / "spool", connection, labels=[LabelTopic()]) as readings:
        is_connector: Connector = readings
        assert is_connector is readings
        publisher.publish([(X, b"0.5")], qos=0)
        publisher.publish((f"plant/a/m{i % 3}/x", b"%d" % i) for i in range(600))
        publisher.publish([("plant/a/m1/events", b'{"time": "2026-01-02T03:04:05Z", "label": "worn"}')])
        for batch in readings:
            seen.append(batch)
            if sum(len(each.readings) + len(each.labels) for each in seen) == 602:
                readings.stop()
        until_done(readings, 602)
        status = readings.status()
    frame = pl.concat(batch.readings for batch in seen)
    assert frame["sequence"].to_list() == list(range(601))
    assert frame["values"].explode().to_list() == [0.5, *range(600)]
    assert frame["machine"].to_list()[:4] == ["m", "m0", "m1", "m2"]
    assert set(frame["quality"]) == {Quality.NO_DEVICE_TIME}
    assert pl.concat(batch.labels for batch in seen).drop("received").rows() == [
        (601, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "a", "m1", "worn")
    ]
    assert (status.received, status.committed, status.waiting, status.lag) == (602, 602, 0, 0.0)
    assert (status.connected, status.healthy, status.problem, status.machines) == (True, True, None, 4)
    assert (status.connections, status.redelivered, status.gaps, status.restarts) == (1, 0, 0, 0)
    assert read(tmp_path / "spool").readings.equals(frame)


def test_a_slow_consumer_sees_all_and_a_second_recording_only_the_new(tmp_path: Path, broker: Broker) -> None:
    for begin in (0, 10):
        with flood(broker) as publisher, source(tmp_path, broker) as readings:
            publisher.publish((X, b"%d" % i) for i in range(begin, begin + 10))
            until_done(readings, 10)
            readings.stop()
            got = pl.concat(batch.readings for batch in readings)
            assert got["values"].explode().to_list() == list(range(begin, begin + 10))
    assert values(tmp_path) == list(range(20))


def test_what_comes_while_we_are_away_waits_at_the_broker(tmp_path: Path, broker: Broker) -> None:
    with source(tmp_path, broker):
        pass
    with flood(broker) as publisher:
        publisher.publish((X, b"%d" % i) for i in range(3000))
    with source(tmp_path, broker, receive_maximum=50) as readings:  # far fewer than wait
        until_done(readings, 3000)
        assert readings.status().gaps == 0
    assert numbers(tmp_path) == list(range(3000))


@pytest.mark.parametrize("certificates", [False, True])
def test_encrypted(tmp_path: Path, start_broker: Callable[..., Broker], certificates: bool) -> None:
    broker = start_broker(tls=True, require_client_certificate=certificates)
    connection = broker.connection("server")
    own = replace(broker.connection("server.recorder"), host="localhost")
    with source(tmp_path / "spool", own) as readings:
        client = connection.client("publisher")
        client.connect(connection.host, connection.effective_port)
        client.loop_start()
        try:
            for i in range(300):
                client.publish(X, b"%d" % i, qos=1)
            until_done(readings, 300)
        finally:
            client.disconnect()
            client.loop_stop()
    assert numbers(tmp_path / "spool") == list(range(300))


def test_a_share_is_split_between_its_clients(tmp_path: Path, broker: Broker) -> None:
    with (
        source(tmp_path / "0", broker, share="group") as first,
        source(tmp_path / "1", broker.connection("server.second"), share="group") as second,
        flood(broker) as publisher,
    ):
        publisher.publish((X, b"%d" % i) for i in range(1000))
        until(lambda: first.status().committed + second.status().committed == 1000)
    parts = [numbers(tmp_path / name) for name in "01"]
    assert sorted(parts[0] + parts[1]) == list(range(1000))
    assert min(map(len, parts)) > 100


@contextlib.contextmanager
def watching(broker: Broker, topic: str, login: str = "server.watcher") -> Iterator[list[str]]:
    """What is said on a topic."""
    connection, said = broker.connection(login), []
    client = connection.client("watcher")
    client.on_message = lambda _client, _data, message: said.append(message.payload.decode())
    client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
    client.connect(connection.host, connection.effective_port)
    client.loop_start()
    try:
        yield said
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_it_says_when_it_is_there_and_the_broker_when_it_is_not(
    tmp_path: Path, broker: Broker, version: Any
) -> None:
    with Proxy(broker.port) as proxy, watching(broker, "state/recorder") as said:
        connection = replace(broker.connection("server.recorder"), port=proxy.port, version=version)
        with source(tmp_path, connection, status_topic="state/recorder") as readings:
            until(lambda: said == ["online"])
            proxy.cut()
            until(lambda: said == ["online", "offline", "online"])
            until(lambda: readings.status().connected)
        until(lambda: said == ["online", "offline", "online", "offline"])
        with watching(broker, "state/recorder", "server.second") as later:
            until(lambda: later == ["offline"])  # retained


# What is said of readings -------------------------------------------------------------------------------


def test_retained_values_are_flagged_and_come_once(tmp_path: Path, broker: Broker) -> None:
    with flood(broker) as publisher, Proxy(broker.port) as proxy:
        publisher.publish([(X, b"1")], retain=True)
        publisher.publish([("plant/a/m/y", b"2")], retain=True)
        publisher.publish([("plant/a/m/y", b"")], retain=True)  # which deletes it
        with source(tmp_path, replace(broker.connection("server.recorder"), port=proxy.port)) as readings:
            until_done(readings, 1)
            for connections in (2, 3):
                proxy.cut()
                until(lambda: readings.status().connected and readings.status().connections == connections)  # noqa: B023
            publisher.publish([(X, b"3"), (X, b"")])
            until_done(readings, 3)
            assert readings.status().dead_letters == 0
    assert payloads(tmp_path) == [b"1", b"3", b""]
    quality = read(tmp_path).readings["quality"].to_list()
    assert quality == [Quality.RETAINED | Quality.NO_DEVICE_TIME, Quality.NO_DEVICE_TIME]


def test_doubtful_times_are_flagged_and_kept_as_they_are(tmp_path: Path, broker: Broker) -> None:
    base = now()
    times = [base, base // 1000, 0, now(10 * 86400), base - 5_000_000, base + 1_000_000, base // 1000 * 1_000_000]
    with flood(broker) as publisher, source(tmp_path, broker, topics=[TIMED]) as readings:
        publisher.publish((X, b'{"t": %d, "v": %d}' % (t, i)) for i, t in enumerate(times[:6]))
        publisher.publish([(X, b'{"t": %d, "v": 6}' % times[6])])  # further away than a datetime reaches
        until_done(readings, 7)
        status = readings.status()
    frame = read(tmp_path).readings
    wrong, late = Quality.IMPLAUSIBLE_TIME, Quality.LATE
    assert frame["quality"].to_list()[:6] == [0, wrong | late, wrong | late, wrong, late, 0]
    assert frame["time"].to_physical().to_list()[:6] == times[:6]
    assert status.dead_letters + frame["quality"].to_list()[6:].count(wrong) == 1
    quality = frame["quality"].to_list()
    assert status.doubtful == {
        "implausible_time": sum(bool(flags & wrong) for flags in quality),
        "late": sum(bool(flags & late) for flags in quality),
    }


def test_bad_samples_are_flagged_and_counted(tmp_path: Path, broker: Broker) -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=64)
    blocks = [good, np.where(np.arange(64) == 7, np.nan, good), np.where(np.arange(64) == 7, np.inf, good)]
    blocks.append(np.full(64, 3.25))
    with flood(broker) as publisher, source(tmp_path, broker, topics=[Topic(codec=WaveformBlock())]) as readings:
        publisher.publish((X, encode_waveform(block, 1000.0, now(i))) for i, block in enumerate(blocks))
        until_done(readings, 4)
        assert sum(readings.status().doubtful.values()) == 3
    frame = read(tmp_path).readings
    assert frame["quality"].to_list() == [0, Quality.NOT_FINITE, Quality.NOT_FINITE, Quality.STUCK]
    np.testing.assert_array_equal(frame["values"][1].to_numpy(), blocks[1].astype(np.float32))


def test_a_publisher_that_is_not_sure_counts_once_where_it_sends_a_time(tmp_path: Path, broker: Broker) -> None:
    topics = [replace(TIMED, template="plant/{site}/{machine}/timed", channel="timed"), Topic()]
    base = now()
    with flood(broker) as publisher, source(tmp_path, broker, topics=topics) as readings:
        timed = [b'{"t": %d, "v": 1.5}' % (base + i) for i in range(3)]
        publisher.publish(("plant/a/m/timed", payload) for payload in timed * 2)
        publisher.publish((X, b"20.0") for _ in range(500))  # equal, and all of them true
        until_done(readings, 506)
        assert (readings.status().repeated, readings.status().redelivered) == (3, 0)
    frame = read(tmp_path).readings
    assert frame.group_by("channel").len().sort("channel").rows() == [("timed", 3), ("x", 500)]


BAD_JSON = [
    b'{"t": 1, "v": 1',
    b'{"t": 1, "v": "\xff\xfe"}',
    b'{"t": 1, "v": "n/a"}',
    b'{"t": 1, "v": {}}',
    b'{"t": 1, "v": 1e999}',
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b"\x00",
    b'"text"',
    b"[1, 2]",
    b'{"t": 1}',
    b'{"t": "yesterday", "v": 1}',
    b'{"t": 99999999999999999999999999, "v": 1}',
    b'{"t": 1, "v": 1} trailing',
]


def test_bad_json_is_a_dead_letter_and_its_neighbours_are_kept(tmp_path: Path, broker: Broker) -> None:
    base = now()
    mixed: list[bytes] = []
    for i, bad in enumerate(BAD_JSON):
        mixed += [b'{"t": %d, "v": %d}' % (base + i, i), bad]
    topics = [TIMED, Topic("batch/{site}/{machine}/{channel}", JSONBatch(time="t", time_unit="us", value="v"))]
    with flood(broker) as publisher, source(tmp_path, broker, topics=topics) as readings:
        publisher.publish((X, payload) for payload in mixed)
        # One bad object of a batch loses itself only.
        publisher.publish(
            [("batch/a/m/x", b'[{"t": %d, "v": 1}, {"t": 2, "v": "n/a"}, {"t": %d, "v": 3}]' % (base, base))]
        )
        until_done(readings, len(mixed) + 1)
        assert readings.status().dead_letters == len(BAD_JSON) + 1
        letters = list(readings.recorder.dead_letters)
    assert [letter.payload for letter in letters][:-1] == BAD_JSON
    assert {letter.topic for letter in letters} == {X, "batch/a/m/x"}
    assert all(letter.error for letter in letters)
    assert values(tmp_path) == [*range(len(BAD_JSON)), 1, 3]


def test_waveforms_that_disagree_with_their_header_are_dead_letters(tmp_path: Path, broker: Broker) -> None:
    good = encode_waveform(np.arange(8), 1000.0, now())
    bad = [
        good[:-1],
        good + b"\x00",
        good[:20],
        b"FMLX" + good[4:],
        good[:5] + b"\x09" + good[6:],
        good[:8] + b"\xff\xff\xff\xff" + good[12:],
        good[:8] + (8).to_bytes(4, "big") + good[12:],
    ]
    with flood(broker) as publisher, source(tmp_path, broker, topics=[Topic(codec=WaveformBlock())]) as readings:
        publisher.publish((X, payload) for payload in [*bad, good, b""])
        until_done(readings, len(bad) + 2)
        assert [letter.payload for letter in readings.recorder.dead_letters] == bad
    assert values(tmp_path) == list(range(8))


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_of_what_is_too_large_a_dead_letter_is_kept(tmp_path: Path, broker: Broker, version: str) -> None:
    connection = replace(broker.connection("server.recorder"), version=version)
    sizes = [3000, 3, 300_000, 3, 3, 2000, 70_000, 3]
    with flood(broker) as publisher, source(tmp_path, connection, max_packet_bytes=2000) as readings:
        publisher.publish((X, b"1" * size) for size in sizes)
        until_done(readings, len(sizes))
        publisher.publish((X, b"222") for _ in range(50))
        until_done(readings, len(sizes) + 50)
        status = readings.status()
        assert (status.connections, status.healthy, status.dead_letters) == (1, True, 4)
        letters = list(readings.recorder.dead_letters)
    assert [letter.sequence for letter in letters] == [0, 2, 5, 6]
    assert [(letter.topic, letter.payload) for letter in letters] == [(X, b"")] * 4
    assert "of 300,0" in letters[1].error
    assert "max_packet_bytes" in letters[1].error
    assert {len(payload) for payload in payloads(tmp_path)} == {0, 3}


# Settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"receive_maximum": 1},
        {"receive_maximum": 20_000},
        {"max_refusals": 0},
        {"session_expiry": -1},
        {"commit_interval": 0.0},
        {"no_data_alarm": 0.0},
        {"max_packet_bytes": 1},
        {"max_waiting_bytes": 0},
        {"share": "a/b"},
        {"share": ""},
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        MQTT(tmp_path, **options)


def session_name(folder: Path, **options: Any) -> str:
    """The client id with which a recording would connect."""
    with MQTT(folder, Connection(port=1), startup_error_behavior="ignore", **options) as readings:
        return readings.session.client_id


def computed_name(folder: Path) -> str:
    """The client id that earlier versions had, which anybody could compute."""
    place = f"{socket.gethostname()}:{folder.resolve()}"
    return f"fml-{folder.name[:12]}-{hashlib.blake2b(place.encode(), digest_size=5).hexdigest()}"


def test_the_name_of_the_session_is_random_and_the_same_after_a_restart(tmp_path: Path) -> None:
    first, other = session_name(tmp_path / "a"), session_name(tmp_path / "b")
    assert re.fullmatch(r"fml-a-[0-9a-f]{16}", first)
    assert first[-16:] != other[-16:]
    file = tmp_path / "a" / "session.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "a").rename(tmp_path / "moved")
    assert session_name(tmp_path / "moved") == first
    again = session_name(tmp_path / "a")  # a new spool at the same place
    assert again != first
    assert session_name(tmp_path / "a", client_id="given") == "given"
    assert session_name(tmp_path / "a") == "given"  # the broker's queue is under this name now


@pytest.mark.parametrize("holds_messages", [False, True])
def test_a_spool_of_before_keeps_the_name_of_its_session(tmp_path: Path, holds_messages: bool) -> None:
    spool = tmp_path / "spool"
    session_name(spool)
    (spool / "session.json").unlink()
    if holds_messages:
        with Spool(spool) as writer:
            writer.append([Message(X, b"1", 1)])
        (spool / "topics.json").unlink()
    name = computed_name(spool)
    assert session_name(spool) == name
    (tmp_path / "spool").rename(tmp_path / "moved")
    assert session_name(tmp_path / "moved") == name


def test_a_damaged_file_of_the_session_is_no_new_session(tmp_path: Path) -> None:
    session_name(tmp_path)
    (tmp_path / "session.json").write_bytes(b"{")
    with pytest.raises(UserError, match=r"session.json cannot be read \(.*\); restore it, or delete it"):
        session_name(tmp_path)
    with Spool(tmp_path):  # and nothing keeps it locked
        pass


def test_it_ends_while_it_waits_for_a_broker(tmp_path: Path) -> None:
    readings = source(tmp_path, Connection(port=1), startup_error_behavior="retry")

    def stop() -> None:
        until(lambda: hasattr(readings, "supervisor") and readings.supervisor.network.problem)
        readings.stop()

    with in_background(stop), readings:
        assert list(readings) == []


def test_a_recording_that_was_never_opened_says_so(tmp_path: Path) -> None:
    mqtt = MQTT(str(tmp_path / "spool"))
    uses: list[Callable[[], object]] = [
        mqtt.status,
        mqtt.check,
        mqtt.unfinished,
        lambda: mqtt.awaits_broker,
        lambda: next(iter(mqtt)),
    ]
    for use in uses:
        with pytest.raises(UserError, match=r"was never opened; use it in a with statement, or call open first"):
            use()
    mqtt.close()


def test_topics_are_written_whole(tmp_path: Path) -> None:
    with source(tmp_path, Connection(port=1), startup_error_behavior="ignore", topics=[TIMED]) as readings:
        assert json.loads((readings.folder / "topics.json").read_bytes())["readings"][0]["qos"] == 1
        assert not (readings.folder / "topics.json.tmp").exists()


def test_what_is_asked_of_a_broker() -> None:
    session = MQTT("spool", session_expiry=60, receive_maximum=7, share="s").session
    link = Link(Connection(), session, Inbox(1), 1, False, threading.Event(), threading.Event())
    arguments = link._arguments()
    link.close()
    properties = arguments["properties"]
    assert (properties.SessionExpiryInterval, properties.ReceiveMaximum) == (60, 7)
    assert arguments["clean_start"] is False
    assert session.filters == {"$share/s/plant/+/+/+": 1}
