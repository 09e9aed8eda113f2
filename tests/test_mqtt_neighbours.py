"""MQTT: what others at the same broker do to our session, and two recorders that share one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from probes import flood, numbers, source, until, until_done

from fml_lightning.connectors import Connection
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.mqtt import network_thread, supervisor

X = "plant/plant1/m/x"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (network_thread, supervisor):
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
    with flood(broker) as publisher:
        publisher.publish((X, b"%d" % i) for i in range(50))
    intrude(broker, "plant1", victim, tmp_path)
    with source(tmp_path / "spool", broker, client_id=client_id) as readings:
        assert readings.session.client_id == victim
        until_done(readings, 50)
        assert readings.status().gaps == 0
    assert numbers(tmp_path / "spool") == list(range(50))
    assert not readings.spool.gaps.exists()


def test_a_recorder_that_is_connected_is_out_of_its_neighbours_reach(tmp_path: Path, broker: Broker) -> None:
    with source(tmp_path / "spool", broker) as readings, flood(broker) as publisher:
        publisher.publish((X, b"%d" % i) for i in range(25))
        intrude(broker, "plant1", readings.session.client_id, tmp_path)
        publisher.publish((X, b"%d" % i) for i in range(25, 50))
        until_done(readings, 50)
        status = readings.status()
        assert (status.connections, status.gaps, status.healthy) == (1, 0, True)
    with source(tmp_path / "spool", broker) as readings:
        assert readings.status().gaps == 0
    assert numbers(tmp_path / "spool") == list(range(50))
    assert not readings.spool.gaps.exists()


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
