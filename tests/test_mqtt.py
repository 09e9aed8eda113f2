from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import trustme
from probes import Flood, numbers, payloads, spooled, until
from tcp_proxy import Proxy

from fml_lightning.connectors import (
    MQTT,
    TLS,
    Batch,
    Connection,
    Connector,
    JSONBatch,
    JSONObject,
    LabelTopic,
    Message,
    Quality,
    SpoolSource,
    Topic,
    WaveformBlock,
    encode_waveform,
    mqtt,
    network_thread,
)
from fml_lightning.connectors.broker import Broker
from fml_lightning.connectors.certificates import write_private
from fml_lightning.connectors.inbox import Delivery, Inbox
from fml_lightning.connectors.link import Link
from fml_lightning.connectors.orders import Orders
from fml_lightning.errors import UserError

X = "plant/a/m/x"
TIMED = Topic(codec=JSONObject(time="t", time_unit="us", value="v"))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_thread, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(mqtt, "LONGEST_WAIT", 0.1)


def source(folder: Path, broker: Broker | Connection, **options: Any) -> MQTT:
    connection = broker.connection("server") if isinstance(broker, Broker) else broker
    return MQTT(folder, connection, **{"client_id": "recorder", "commit_interval": 0.05, **options})


def until_done(readings: MQTT, count: int) -> None:
    """Wait until so many messages are durable, read and acknowledged."""
    until(lambda: readings.status().committed == count and not readings.status().waiting, what=readings.status)


def flood(broker: Broker) -> Flood:
    return Flood(broker.port, "server", broker.passwords["server"])


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
    connection = replace(broker.connection("server"), version=version)
    seen: list[Batch] = []
    with flood(broker) as publisher, source(tmp_path / "spool", connection, labels=[LabelTopic()]) as readings:
        is_connector: Connector = readings
        assert is_connector is readings
        publisher.publish([(X, b"0.5")], qos=0)
        publisher.publish((f"plant/a/m{i % 3}/x", b"%d" % i) for i in range(600))
        publisher.publish([("plant/a/m1/events", b'{"time": "2026-01-02T03:04:05Z", "label": "worn"}')])
        for batch in readings:
            seen.append(batch)
            if readings.status().committed == 602:
                readings.stop()
        until_done(readings, 602)
        status = readings.status()
    frame = pl.concat(batch.readings for batch in seen)
    assert frame["sequence"].to_list() == list(range(601))
    assert frame["values"].explode().to_list() == [0.5, *range(600)]
    assert frame["machine"].to_list()[:4] == ["m", "m0", "m1", "m2"]
    assert set(frame["quality"]) == {Quality.NO_DEVICE_TIME}
    assert pl.concat(batch.labels for batch in seen).rows() == [
        (601, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "a", "m1", "worn")
    ]
    assert (status.received, status.committed, status.waiting, status.lag) == (602, 602, 0, 0.0)
    assert (status.connected, status.healthy, status.problem, status.machines) == (True, True, None, 4)
    assert (status.connections, status.duplicates, status.gaps, status.restarts) == (1, 0, 0, 0)
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
    with source(tmp_path / "spool", replace(connection, host="localhost")) as readings:
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
        source(tmp_path / "0", broker, client_id="0", share="group") as first,
        source(tmp_path / "1", broker, client_id="1", share="group") as second,
        flood(broker) as publisher,
    ):
        publisher.publish((X, b"%d" % i) for i in range(1000))
        until(lambda: first.status().committed + second.status().committed == 1000)
    parts = [numbers(tmp_path / name) for name in "01"]
    assert sorted(parts[0] + parts[1]) == list(range(1000))
    assert min(map(len, parts)) > 100


@contextlib.contextmanager
def watching(broker: Broker, topic: str) -> Iterator[list[str]]:
    """What is said on a topic."""
    connection, said = broker.connection("server"), []
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
        connection = replace(broker.connection("server"), port=proxy.port, version=version)
        with source(tmp_path, connection, status_topic="state/recorder") as readings:
            until(lambda: said == ["online"])
            proxy.cut()
            until(lambda: said == ["online", "offline", "online"])
            until(lambda: readings.status().connected)
        until(lambda: said == ["online", "offline", "online", "offline"])
        with watching(broker, "state/recorder") as later:
            until(lambda: later == ["offline"])  # retained


# What is said of readings -------------------------------------------------------------------------------


def test_retained_values_are_flagged_and_come_once(tmp_path: Path, broker: Broker) -> None:
    with flood(broker) as publisher, Proxy(broker.port) as proxy:
        publisher.publish([(X, b"1")], retain=True)
        publisher.publish([("plant/a/m/y", b"2")], retain=True)
        publisher.publish([("plant/a/m/y", b"")], retain=True)  # which deletes it
        with source(tmp_path, replace(broker.connection("server"), port=proxy.port)) as readings:
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
    assert status.doubtful == len(frame) - 2


def test_bad_samples_are_flagged_and_counted(tmp_path: Path, broker: Broker) -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=64)
    blocks = [good, np.where(np.arange(64) == 7, np.nan, good), np.where(np.arange(64) == 7, np.inf, good)]
    blocks.append(np.full(64, 3.25))
    with flood(broker) as publisher, source(tmp_path, broker, topics=[Topic(codec=WaveformBlock())]) as readings:
        publisher.publish((X, encode_waveform(block, 1000.0, now(i))) for i, block in enumerate(blocks))
        until_done(readings, 4)
        assert readings.status().doubtful == 3
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
        assert (readings.status().repeated, readings.status().duplicates) == (3, 0)
    frame = read(tmp_path).readings
    assert frame.group_by("channel").len().sort("channel").rows() == [("timed", 3), ("x", 500)]


BAD_JSON = [
    b'{"t": 1, "v": 1',
    b'{"t": 1, "v": "\xff\xfe"}',
    b'\xef\xbb\xbf{"t": 1, "v": 1}',
    b'{"t": 1, "v": NaN}',
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
            [("batch/a/m/x", b'[{"t": %d, "v": 1}, {"t": 2, "v": NaN}, {"t": %d, "v": 3}]' % (base, base))]
        )
        until_done(readings, len(mixed) + 1)
        assert readings.status().dead_letters == len(BAD_JSON) + 1
        letters = readings.recorder.dead_letters.read()
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
        assert [letter.payload for letter in readings.recorder.dead_letters.read()] == bad
    assert values(tmp_path) == list(range(8))


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_of_what_is_too_large_a_dead_letter_is_kept(tmp_path: Path, broker: Broker, version: str) -> None:
    connection = replace(broker.connection("server"), version=version)
    sizes = [3000, 3, 300_000, 3, 3, 2000, 70_000, 3]
    with flood(broker) as publisher, source(tmp_path, connection, max_packet_bytes=2000) as readings:
        publisher.publish((X, b"1" * size) for size in sizes)
        until_done(readings, len(sizes))
        publisher.publish((X, b"222") for _ in range(50))
        until_done(readings, len(sizes) + 50)
        status = readings.status()
        assert (status.connections, status.healthy, status.dead_letters) == (1, True, 4)
        letters = readings.recorder.dead_letters.read()
    assert [letter.sequence for letter in letters] == [0, 2, 5, 6]
    assert [(letter.topic, letter.payload) for letter in letters] == [(X, b"")] * 4
    assert "of 300,0" in letters[1].error
    assert "max_packet_bytes" in letters[1].error
    assert {len(payload) for payload in payloads(tmp_path)} == {0, 3}


# Who may, and what is secret ----------------------------------------------------------------------------


def _mtls_without_certificate(broker: Broker, folder: Path) -> Connection:
    return Connection(port=broker.port, tls=TLS(str(broker.ca_file)))


def _wrong_password(broker: Broker, folder: Path) -> Connection:
    (folder / "password").write_text("hunter2-wrong")
    return replace(broker.connection("server"), password_file=str(folder / "password"))


def _wrong_authority(broker: Broker, folder: Path) -> Connection:
    (folder / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    return replace(broker.connection("server"), tls=TLS(str(folder / "ca.crt")))


def _wrong_name(broker: Broker, folder: Path) -> Connection:
    return replace(broker.connection("server"), host="127.0.0.2")


def _plain_to_tls(broker: Broker, folder: Path) -> Connection:
    return replace(broker.connection("server"), tls=None)


def _tls_to_plain(broker: Broker, folder: Path) -> Connection:
    (folder / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    return replace(broker.connection("server"), tls=TLS(str(folder / "ca.crt")))


REFUSALS: list[tuple[dict[str, Any], Callable[[Broker, Path], Connection], str]] = [
    ({}, _wrong_password, "refuses the user 'server' .*; check username and password"),
    ({}, lambda b, _: Connection(port=b.port), "refuses the user None .*; expected a username, got none"),
    ({"tls": True}, _wrong_authority, "certificate .* is not valid: .*; set tls.ca_file to the authority"),
    (
        {"tls": True, "host": "0.0.0.0"},
        _wrong_name,
        "certificate .* is not valid: IP address mismatch.*; set host",
    ),
    ({"tls": True}, _plain_to_tls, "ends the connection without an answer .* does it expect tls?"),
    ({}, _tls_to_plain, "no encrypted connection .*; does this port speak TLS"),
    ({"tls": True, "require_client_certificate": True}, _mtls_without_certificate, "does it expect a client cert"),
]


@pytest.mark.parametrize(("options", "make", "sentence"), REFUSALS, ids=[make.__name__ for _, make, _ in REFUSALS])
def test_what_will_not_mend_itself_is_fatal_after_some_attempts(
    tmp_path: Path,
    start_broker: Callable[..., Broker],
    options: dict[str, Any],
    make: Callable[[Broker, Path], Connection],
    sentence: str,
) -> None:
    broker = start_broker(**options)
    with Proxy(broker.port) as proxy:
        connection = make(broker, tmp_path)
        if connection.host == "127.0.0.1":
            connection = replace(connection, port=proxy.port)
        with pytest.raises(UserError, match=sentence), source(tmp_path / "spool", connection):
            pass
        once = len(proxy.accepted)
        retrying = source(tmp_path / "spool", connection, startup_error_behavior="retry", attempts=3)
        with pytest.raises(UserError, match=sentence) as error, retrying:
            pass
        assert "\n" not in str(error.value)
        assert (once, len(proxy.accepted)) in ((1, 4), (0, 0))  # 0: not through the proxy
    assert spooled(tmp_path / "spool").is_empty()


def test_an_expired_certificate(tmp_path: Path, start_broker: Callable[..., Broker]) -> None:
    authority, folder = trustme.CA(), tmp_path / "certificates"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(authority.cert_pem.bytes())
    issued = authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    write_private(folder / "server.key", issued.private_key_pem.bytes())
    (folder / "server.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    broker = start_broker(tls=True, certificates=folder)
    retrying = source(tmp_path / "spool", broker, startup_error_behavior="retry", attempts=2)
    with pytest.raises(UserError, match="certificate has expired; renew the broker's certificate"), retrying:
        pass
    careless = replace(broker.connection("server"), tls=TLS(str(folder / "ca.crt"), verify=False))
    with source(tmp_path / "spool", careless) as readings:  # said, not silent
        assert readings.status().connected


def test_another_machine_needs_tls_or_a_word() -> None:
    with pytest.raises(UserError, match=r"broker\.plant is another machine, so expected tls"):
        Connection("broker.plant")
    with pytest.raises(UserError, match="another machine"):
        Connection("192.168.1.7", username="me", password_env="PASSWORD")
    assert Connection("broker.plant", unencrypted=True).effective_port == 1883
    assert Connection("broker.plant", tls=TLS()).effective_port == 8883
    for own in ("localhost", "127.0.0.1", "127.3.2.1", "::1"):
        Connection(own)


def test_a_busy_broker_is_waited_for(tmp_path: Path, broker: Broker) -> None:
    with Proxy(broker.port) as proxy:
        proxy.change = lambda data: b"\x20\x02\x00\x03" if data[0] == 0x20 else data  # server unavailable
        connection = replace(broker.connection("server"), port=proxy.port, version="3.1.1")
        with source(tmp_path, connection, startup_error_behavior="ignore", attempts=2) as readings:
            until(lambda: len(proxy.accepted) >= 4)
            assert readings.status().problem is not None
            assert readings.status().problem.endswith("refuses the connection: Server unavailable")
            readings.check()
            proxy.change = lambda data: data
            until(lambda: readings.status().healthy)


def test_secrets_stay_secret(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = broker.passwords["server"]
    monkeypatch.setenv("BROKER_PASSWORD", secret)
    connection = replace(broker.connection("server"), password_file=None, password_env="BROKER_PASSWORD")
    told: list[object] = [connection, str(connection), vars(connection)]
    with source(tmp_path / "spool", connection) as readings:
        network = readings.network
        told += [readings, vars(readings), readings.status(), readings.session, network, vars(network)]
        told += [vars(network._link), vars(network.orders)]
    monkeypatch.setenv("BROKER_PASSWORD", secret[::-1])
    with pytest.raises(UserError) as error, source(tmp_path / "spool", connection):
        pass
    told += [error.value, error.value.__cause__, caplog.text]
    told += [file.read_bytes() for file in (tmp_path / "spool").rglob("*") if file.is_file()]
    for text in map(repr, told):
        assert secret not in text
        assert secret[::-1] not in text


def test_passwords_are_where_they_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PASSWORD", raising=False)
    (tmp_path / "empty").touch()
    for options, sentence in [
        ({"password_env": "NO_PASSWORD"}, "NO_PASSWORD is not set"),
        ({"password_file": str(tmp_path / "none")}, "cannot read"),
        ({"password_file": str(tmp_path / "empty")}, "is empty"),
    ]:
        with (
            pytest.raises(UserError, match=sentence),
            source(tmp_path / "s", Connection(username="me", **options)),
        ):
            pass
    assert not (tmp_path / "s").exists()


def test_a_forbidden_or_silent_topic_raises_the_alarm(tmp_path: Path, start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(acl={"plant1": ["write #"]})  # may not read; mosquitto grants the subscription even so
    with flood(broker) as publisher, source(tmp_path, broker.connection("plant1"), no_data_alarm=0.3) as readings:
        assert readings.status().healthy
        publisher.publish([(X, b"1")])
        until(lambda: not readings.status().healthy)
        problem = readings.status().problem
        assert problem is not None
        assert problem.startswith("no data for 0 s; are the sensors on, and may plant1 read plant/+/+/+")
        readings.check()  # an alarm, not an end


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_refused_subscription_is_fatal(tmp_path: Path, broker: Broker, version: Any) -> None:
    code = 0x87 if version == "5" else 0x80

    def refuse(data: bytes) -> bytes:  # a SUBACK ends with its reason code
        return data[:-1] + bytes([code]) if data[0] == 0x90 else data

    with Proxy(broker.port) as proxy:
        proxy.change = refuse
        connection = replace(broker.connection("server"), port=proxy.port, version=version)
        retrying = source(tmp_path, connection, startup_error_behavior="retry")
        with (
            pytest.raises(UserError, match=r"refuses the subscription to 'plant/\+/\+/\+' .*; allow server"),
            retrying,
        ):
            pass
        assert len(proxy.accepted) == 1


def test_a_broker_that_grants_less_is_named(
    tmp_path: Path, start_broker: Callable[..., Broker], caplog: pytest.LogCaptureFixture
) -> None:
    def less(data: bytes) -> bytes:
        return data[:-1] + b"\x00" if data[0] == 0x90 else data

    broker = start_broker()
    with Proxy(broker.port) as proxy:
        proxy.change = less
        with source(tmp_path, replace(broker.connection("server"), port=proxy.port)):
            pass
    assert "sends 'plant/+/+/+' at QoS 0 only" in caplog.text


# Settings, and the inbox --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"receive_maximum": 1},
        {"receive_maximum": 20_000},
        {"attempts": 0},
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


def test_the_name_of_the_session_is_the_same_after_a_restart(tmp_path: Path) -> None:
    names = [MQTT(tmp_path / folder).session.client_id for folder in ("a", "a", "b")]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("fml-a-")


def test_it_ends_while_it_waits_for_a_broker(tmp_path: Path) -> None:
    readings = source(tmp_path, Connection(port=1), startup_error_behavior="retry")
    threading.Timer(0.2, readings.stop).start()
    with readings:
        assert list(readings) == []


def test_topics_are_written_whole(tmp_path: Path) -> None:
    with source(tmp_path, Connection(port=1), startup_error_behavior="ignore", topics=[TIMED]) as readings:
        assert json.loads((readings.folder / "topics.json").read_bytes())["readings"][0]["qos"] == 1
        assert not (readings.folder / "topics.json.tmp").exists()


def delivery(size: int, epoch: int = 1) -> Delivery:
    return Delivery(Message(X, b"x" * size, 5), epoch)


def test_the_inbox_counts_what_is_in_memory() -> None:
    inbox = Inbox(max_bytes=10)
    assert (inbox.oldest, len(inbox), inbox.full) == (None, 0, False)
    for size in (4, 5):
        inbox.put(delivery(size))
    assert not inbox.full
    inbox.put(delivery(1))
    assert inbox.full
    taken = inbox.take(2, 100, interval=1.0, idle=0.01)
    assert taken is not None
    assert (len(taken), len(inbox), inbox.full, inbox.oldest) == (2, 3, True, 5)  # not durable yet
    assert len(inbox.take(2, 100, interval=1.0, idle=0.01) or ()) == 1
    assert (len(inbox), inbox.full, inbox.oldest) == (1, False, 5)
    inbox.release()
    assert (len(inbox), inbox.full, inbox.oldest) == (0, False, None)
    inbox.put(delivery(1))
    inbox.close()
    assert len(inbox.take(2, 100, 1.0, 0.01) or ()) == 1
    assert inbox.take(2, 100, 1.0, 0.01) is None


def test_taking_waits_for_enough_or_for_silence() -> None:
    inbox = Inbox(max_bytes=1000)

    def timed(count: int, interval: float, idle: float, size: int = 100) -> tuple[int, float]:
        began = time.monotonic()
        taken = inbox.take(count, size, interval, idle)
        return len(taken or ()), time.monotonic() - began

    def put(count: int, pause: float) -> threading.Thread:
        def work() -> None:
            for _ in range(count):
                time.sleep(pause)
                inbox.put(delivery(1))

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    thread = put(20, 0.01)
    count, seconds = timed(10, 5.0, 1.0)
    assert count == 10  # enough are there
    assert seconds < 0.5
    thread.join()
    assert timed(1000, 5.0, 0.05, size=4)[0] == 4  # enough bytes are
    assert timed(1000, 5.0, 0.05)[0] == 6  # nothing more comes
    thread = put(20, 0.01)
    count, seconds = timed(1000, 5.0, 1.0, size=10)
    assert count == 10
    assert seconds < 0.5
    thread.join()
    assert timed(1000, 5.0, 0.05)[0] == 10
    thread = put(40, 0.01)
    count, seconds = timed(1000, 0.2, 1.0)
    assert 5 < count < 40  # the oldest has waited long enough
    assert 0.15 < seconds < 0.5
    thread.join()
    assert timed(1000, 5.0, 0.01)[1] < 0.2
    assert 0.9 < timed(1, 1.0, 1.0)[1] < 1.5  # nothing at all


def test_what_is_asked_of_a_broker() -> None:
    session = MQTT("spool", session_expiry=60, receive_maximum=7, share="s").session
    orders = Orders()
    arguments = Link(Connection(), session, Inbox(1), orders, epoch=1, returning=False)._arguments()
    orders.close()
    properties = arguments["properties"]
    assert (properties.SessionExpiryInterval, properties.ReceiveMaximum) == (60, 7)
    assert arguments["clean_start"] is False
    assert session.filters == {"$share/s/plant/+/+/+": 1}
