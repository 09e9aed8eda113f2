"""MQTT: who may, and what stays secret."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from probes import flood, source, spooled, until
from tcp_proxy import Proxy

from fml_lightning.connectors import TLS, Connection
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.broker.certificates import write_private
from fml_lightning.connectors.mqtt import network_thread, supervisor
from fml_lightning.errors import UserError

X = "plant/a/m/x"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (network_thread, supervisor):
        monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)


def _mtls_without_certificate(broker: Broker, folder: Path) -> Connection:
    return Connection(port=broker.port, tls=TLS(str(broker.ca_file)))


def _wrong_password(broker: Broker, folder: Path) -> Connection:
    (folder / "password").write_text("hunter2-wrong")
    return replace(broker.connection("server.recorder"), password_file=str(folder / "password"))


def _wrong_authority(broker: Broker, folder: Path) -> Connection:
    (folder / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    return replace(broker.connection("server.recorder"), tls=TLS(str(folder / "ca.crt")))


def _wrong_name(broker: Broker, folder: Path) -> Connection:
    return replace(broker.connection("server.recorder"), host="127.0.0.2")


def _plain_to_tls(broker: Broker, folder: Path) -> Connection:
    return replace(broker.connection("server.recorder"), tls=None)


def _tls_to_plain(broker: Broker, folder: Path) -> Connection:
    (folder / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    return replace(broker.connection("server.recorder"), tls=TLS(str(folder / "ca.crt")))


REFUSALS: list[tuple[dict[str, Any], Callable[[Broker, Path], Connection], str]] = [
    ({}, _wrong_password, r"refuses the user 'server.recorder\.\w+' .*; check username and password"),
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
        retrying = source(tmp_path / "spool", connection, startup_error_behavior="retry", max_refusals=3)
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
    retrying = source(tmp_path / "spool", broker, startup_error_behavior="retry", max_refusals=2)
    with pytest.raises(UserError, match="certificate has expired; renew the broker's certificate"), retrying:
        pass
    careless = replace(broker.connection("server.recorder"), tls=TLS(str(folder / "ca.crt"), verify=False))
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
        connection = replace(broker.connection("server.recorder"), port=proxy.port, version="3.1.1")
        with source(tmp_path, connection, startup_error_behavior="ignore", max_refusals=2) as readings:
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
    secret = broker.passwords["server.recorder"]
    monkeypatch.setenv("BROKER_PASSWORD", secret)
    connection = replace(broker.connection("server.recorder"), password_file=None, password_env="BROKER_PASSWORD")
    told: list[object] = [connection, str(connection), vars(connection)]
    with source(tmp_path / "spool", connection) as readings:
        network = readings.supervisor.network
        told += [readings, vars(readings), readings.status(), readings.session, network, vars(network)]
        told += [vars(readings.supervisor), vars(network._link)]
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
    with flood(broker) as publisher, source(tmp_path, broker.connection("plant1")) as readings:
        assert readings.status().healthy
        publisher.publish([(X, b"1")])
        readings.no_data_alarm = 0.3
        until(lambda: not readings.status().healthy)
        problem = readings.status().problem
        assert problem is not None
        assert re.match(r"no data for \d+ s; are the sensors on, and may plant1 read plant/\+/\+/\+", problem)
        readings.check()  # an alarm, not an end


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_refused_subscription_is_fatal(tmp_path: Path, broker: Broker, version: Any) -> None:
    code = 0x87 if version == "5" else 0x80

    def refuse(data: bytes) -> bytes:  # a SUBACK ends with its reason code
        return data[:-1] + bytes([code]) if data[0] == 0x90 else data

    with Proxy(broker.port) as proxy:
        proxy.change = refuse
        connection = replace(broker.connection("server.recorder"), port=proxy.port, version=version)
        retrying = source(tmp_path, connection, startup_error_behavior="retry")
        with (
            pytest.raises(
                UserError, match=r"refuses the subscription to 'plant/\+/\+/\+' .*; allow server.recorder"
            ),
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
        with source(tmp_path, replace(broker.connection("server.recorder"), port=proxy.port)):
            pass
    assert "sends 'plant/+/+/+' at QoS 0 only" in caplog.text
