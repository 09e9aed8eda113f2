"""MQTT: what others at the same broker do to our session, and two recorders that share one."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from probes import LONG, flood, numbers, payloads, source, until, until_done
from tcp_proxy import Proxy

from fml_lightning.connectors import MQTT, Connection
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.mqtt import network_thread, publisher, supervisor
from fml_lightning.connectors.mqtt.publisher import Publisher

pytestmark = pytest.mark.long

X = "plant/plant1/m/x"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (network_thread, publisher, supervisor):
        monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)


def connect(connection: Connection, client_id: str, clean: bool = False, expiry: int = 3600) -> Client:
    """A client that has got the broker's answer, and has subscribed to everything if it was accepted."""
    answers: list[bool] = []
    granted: list[bool] = []
    client = connection.client(client_id, clean=clean)
    client.on_connect = lambda _client, _data, _flags, code, _more: answers.append(not code.is_failure)
    client.on_subscribe = lambda *_: granted.append(True)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = expiry
    more = {"clean_start": clean, "properties": properties} if connection.version == "5" else {}
    client.connect(connection.host, connection.effective_port, **more)
    until(lambda: client.loop(0.05) or answers)
    if answers[0]:
        client.subscribe("#", qos=1)
        until(lambda: client.loop(0.05) or granted)
    return client


def leave(client: Client) -> None:
    """Disconnect; the session is kept as long as it was asked for."""
    client.disconnect()
    until(lambda: client.loop(0.05))


def intrude(broker: Broker, own: str, victim: str, folder: Path) -> None:
    """Whatever a user of the broker can do about a session of another one, a hundred times in all."""
    (folder / "wrong.password").write_text("wrong")
    honest = broker.connection(own)
    names = (own, victim, "server", "server.recorder", broker.username("server.recorder"))
    kinds = itertools.product(("5", "3.1.1"), names, (True, False), (0, 3600))
    connections: Iterator[tuple[Connection, str, bool, int]] = (
        (replace(honest, version=version), name, clean, expiry)  # type: ignore[arg-type]
        for version, name, clean, expiry in kinds
    )
    for connection, name, clean, expiry in [*connections] * 2:  # 80 times
        leave(connect(connection, name, clean, expiry))
    stranger = replace(honest, username=None, password_file=None)
    posing = replace(
        honest, username=broker.username("server.recorder"), password_file=str(folder / "wrong.password")
    )
    for name, clean in itertools.product((victim, "server.recorder"), (True, False)):
        for connection in (stranger, posing, replace(posing, username="server.recorder"), honest, honest):
            leave(connect(connection, name, clean, 0))


@pytest.mark.parametrize("client_id", ["recorder", None])
def test_what_waits_for_an_absent_recorder_is_out_of_its_neighbours_reach(
    tmp_path: Path, start_broker: Callable[..., Broker], client_id: str | None
) -> None:
    broker = start_broker(roles=("recorder", "intruder"))
    with source(tmp_path / "spool", broker, client_id=client_id) as readings:
        victim = readings.session.client_id
    with flood(broker) as line:
        line.publish((X, b"%d" % i) for i in range(50))
    intrude(broker, "plant1", victim, tmp_path)
    with source(tmp_path / "spool", broker, client_id=client_id) as readings:
        assert readings.session.client_id == victim
        until_done(readings, 50)
        assert readings.status().gaps == 0
    assert numbers(tmp_path / "spool") == list(range(50))
    assert gaps(readings.folder) == []


def test_a_recorder_that_is_connected_is_out_of_its_neighbours_reach(tmp_path: Path, broker: Broker) -> None:
    with source(tmp_path / "spool", broker) as readings, flood(broker) as line:
        line.publish((X, b"%d" % i) for i in range(25))
        intrude(broker, "plant1", readings.session.client_id, tmp_path)
        line.publish((X, b"%d" % i) for i in range(25, 50))
        until_done(readings, 50)
        status = readings.status()
        assert (status.connections, status.gaps, status.healthy) == (1, 0, True)
    with source(tmp_path / "spool", broker) as readings:
        assert readings.status().gaps == 0
    assert numbers(tmp_path / "spool") == list(range(50))
    assert gaps(readings.folder) == []


def test_certificates_bind_sessions_as_passwords_do(tmp_path: Path, start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(tls=True, require_client_certificate=True)
    assert broker.username("server.recorder") == "server.recorder"
    with source(tmp_path / "spool", broker) as readings:
        pass
    sender = connect(broker.connection("server"), "sender")
    sent = [sender.publish(X, b"%d" % i, qos=1) for i in range(50)]
    until(lambda: sender.loop(0.05) or all(message.is_published() for message in sent))
    for name, clean in itertools.product((readings.session.client_id, "server.recorder"), (True, False)):
        leave(connect(broker.connection("plant1"), name, clean, 0))
    with source(tmp_path / "spool", broker) as readings:
        until_done(readings, 50)
    assert numbers(tmp_path / "spool") == list(range(50))


# Brokers that let others name our session ---------------------------------------------------------------


@pytest.fixture
def careless(start_broker: Callable[..., Broker]) -> Broker:
    """A broker at which everybody may name any session, as most do."""
    return start_broker(settings={"use_username_as_clientid": "false"})


def gaps(folder: Path) -> list[dict[str, Any]]:
    """The lines of a spool's gaps.jsonl."""
    file = folder / "gaps.jsonl"
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def test_a_queue_that_vanished_is_reported_though_no_message_ever_came(tmp_path: Path, careless: Broker) -> None:
    spool = tmp_path / "spool"
    with source(spool, careless) as readings:
        assert readings.status().gaps == 0
    with flood(careless) as line:
        line.publish((X, b"%d" % i) for i in range(50))
        for _ in range(2):
            leave(connect(careless.connection("plant1"), "recorder", clean=True, expiry=0))
            with source(spool, careless) as readings:
                until(lambda: readings.status().gaps == 1)
    first, second = gaps(spool)
    for gap in (first, second):
        assert gap["reason"] == "the broker had lost our session"
        assert datetime.fromisoformat(gap["begin"]) < datetime.fromisoformat(gap["end"])
    assert second["begin"] == first["end"]  # what was lost before is known already
    assert payloads(spool) == []


def through(proxy: Proxy, broker: Broker, **options: Any) -> Connection:
    return replace(broker.connection("server.recorder"), port=proxy.port, **options)


def taken_over(proxy: Proxy) -> None:
    """What a broker says that says why: mosquitto from 2.0.12 on."""
    proxy.say(b"\xe0\x02\x8e\x00")  # DISCONNECT, session taken over


def test_a_takeover_is_noted_and_does_not_end_the_recording(
    tmp_path: Path, careless: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy(careless.port) as proxy, source(tmp_path, through(proxy, careless)) as readings:
        with flood(careless) as line:
            line.publish([(X, b"1")])
            until_done(readings, 1)
            for count in (1, 2):
                proxy.refusing = True
                taken_over(proxy)
                until(lambda: len(gaps(tmp_path)) == 2 * count - 1)  # noqa: B023
                assert not readings.status().healthy
                proxy.refusing = False
                until(lambda: readings.status().connected and readings.status().gaps == count)  # noqa: B023
            readings.check()
            line.publish([(X, b"2")])
            until_done(readings, 2)
        assert readings.status().takeovers == 2
        until(lambda: readings.status().healthy)  # once we were left alone for long
    told = ["another client has taken our session", "another client had our session"] * 2
    assert [gap["reason"] for gap in gaps(tmp_path)] == told
    assert "before" not in gaps(tmp_path)[0]  # the session goes on, and so do its packet identifiers
    for taken, back in zip(gaps(tmp_path)[::2], gaps(tmp_path)[1::2], strict=True):
        begin, middle, end = (datetime.fromisoformat(time) for time in (taken["begin"], taken["end"], back["end"]))
        assert begin < middle < end
        assert taken["begin"] == back["begin"]
    assert "another client has connected to 127.0.0.1" in caplog.text
    assert "with our client_id 'recorder'" in caplog.text


def test_a_takeover_is_noted_though_the_recording_ends_before_it_is_back(
    tmp_path: Path, careless: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(careless.port) as proxy, source(tmp_path, through(proxy, careless)) as readings:
        with flood(careless) as line:
            line.publish([(X, b"1")])
            until_done(readings, 1)
        proxy.refusing = True
        taken_over(proxy)
        until(lambda: readings.status().takeovers == 1)
    assert [gap["reason"] for gap in gaps(tmp_path)] == ["another client has taken our session"]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_two_recorders_with_one_name_are_told_and_neither_ends(
    tmp_path: Path, careless: Broker, version: Any
) -> None:
    """mosquitto 2.0.11 does not say why it cuts a client off."""
    connection = replace(careless.connection("server"), version=version)

    def problem(readings: MQTT) -> str:
        return readings.status().problem or ""

    with source(tmp_path / "1", connection, max_refusals=3) as first:
        with source(tmp_path / "2", connection, max_refusals=3) as second:
            for readings in (first, second):
                until(lambda: "client_id 'recorder'" in problem(readings))  # noqa: B023
                assert not readings.status().healthy
                assert readings.status().takeovers > 0
                readings.check()
        until(lambda: first.status().connected and first.status().healthy)
    assert {"another client has taken our session", "another client had our session"} <= {
        gap["reason"] for gap in gaps(tmp_path / "1")
    }


def test_a_neighbour_who_takes_the_session_again_and_again_ends_no_recording(
    tmp_path: Path, careless: Broker
) -> None:
    neighbour = careless.connection("plant1")
    with source(tmp_path, careless) as readings:
        for count in range(1, 21):
            until(lambda: readings.status().connected and readings.status().connections >= count)  # noqa: B023
            leave(connect(neighbour, "recorder", clean=count % 2 == 0, expiry=0))
        until(
            lambda: "as if another client were connected with our client_id" in (readings.status().problem or "")
        )
        until(lambda: readings.status().gaps >= 20)
        readings.check()
        with flood(careless) as line:
            line.publish([(X, b"1")])
        until_done(readings, 1)
        assert readings.status().takeovers >= 20 - readings.session.max_refusals
    assert "the broker had lost our session" in {gap["reason"] for gap in gaps(tmp_path)}


def test_two_publishers_with_one_login_are_told_and_lose_nothing(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    connection, stop = broker.connection("server"), threading.Event()
    with source(tmp_path, broker) as readings:
        with Publisher(connection, "one") as one, Publisher(connection, "two") as two:
            until(lambda: "is another client connected as the user 'server'" in caplog.text)
            for i in range(10):
                one.publish(X, b"%d" % i, stop)
                two.publish(X, b"%d" % (10 + i), stop)
            assert one.flush(timeout=LONG)
            assert two.flush(timeout=LONG)
        until(lambda: set(numbers(tmp_path)) == set(range(20)))
        readings.check()


def test_who_is_cut_off_again_and_again_waits_ever_longer(
    tmp_path: Path, careless: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_thread, "LONGEST_WAIT", 60.0)
    waits: list[float] = []
    monkeypatch.setattr(network_thread.NetworkThread, "_rest", lambda _self, seconds: waits.append(seconds))
    with Proxy(careless.port) as proxy, source(tmp_path, through(proxy, careless)) as readings:
        for count in range(1, 10):
            until(lambda: readings.status().connected and readings.status().connections == count)  # noqa: B023
            taken_over(proxy)
            until(lambda: len(waits) >= count)  # noqa: B023
    for i, seconds in enumerate(waits[:9]):
        assert min(60.0, 2.0**i) / 2 <= seconds <= min(60.0, 2.0**i)


def test_a_line_that_breaks_often_is_no_takeover(tmp_path: Path, broker: Broker) -> None:
    with Proxy(broker.port) as proxy, source(tmp_path, through(proxy, broker), max_refusals=3) as readings:
        for connections in range(2, 8):
            proxy.refusing = True
            proxy.cut()
            taken = len(proxy.accepted)
            until(lambda: len(proxy.accepted) > taken)  # noqa: B023
            proxy.refusing = False
            until(lambda: readings.status().connections == connections and readings.status().connected)  # noqa: B023
        readings.check()
