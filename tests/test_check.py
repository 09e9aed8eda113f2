"""`fml record --check`: what a user with an unknown plant gets."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from probes import LONG
from unlike_payloads import DEVICES, Device, misread

from fml_lightning.commands import record
from fml_lightning.commands.process import settings_of
from fml_lightning.commands.record import _options
from fml_lightning.connectors import Connection, Message, Publisher, Topics
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.survey.judgement import judged
from fml_lightning.connectors.survey.listener import Listener
from fml_lightning.errors import UserError

LISTENS = "3600"
"""Seconds that a check listens here, unless it is ended: everything is published again and again meanwhile."""


def _command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fml_lightning", "record", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def _login(broker: Broker, login: str = "server.watcher") -> list[str]:
    return [
        *("--connection.port", str(broker.port)),
        *("--connection.username", broker.username(login)),
        *("--connection.password_file", str(broker.password_file(login))),
    ]


@contextmanager
def _publishing(broker: Broker, messages: Sequence[tuple[str, bytes]]) -> Iterator[None]:
    """Publish messages again and again, meanwhile."""
    stop = threading.Event()

    def publish() -> None:
        with Publisher(broker.connection("server"), "devices") as publisher:
            while not stop.wait(0.2):
                for topic, payload in messages:
                    publisher.publish(topic, payload, stop)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _pasted(config: Path) -> Topics:
    """The topics of a configuration file, as `fml record` reads it."""
    settings = settings_of(_options(), ["--config", str(config), "--spool", "none"])
    return Topics(tuple(settings["topics"]), tuple(settings["labels"]))


def _wrong(topics: Topics, devices: Sequence[Device]) -> dict[int, str]:
    """What is wrong with the readings of devices, by their places."""
    messages = [Message(topic, payload, 1 + i) for i, (topic, payload) in enumerate(_sent(devices))]
    judgement = judged(topics, messages)
    found, first = {}, 0
    for i, device in enumerate(devices):
        places = range(first, first + len(device.messages))
        first = places.stop
        if fault := misread(device, judgement.readings, places):
            found[i] = fault
    return found


def _sent(devices: Sequence[Device]) -> list[tuple[str, bytes]]:
    return [message for device in devices for message in device.messages]


def _ten(seed: int) -> list[str]:
    return random.Random(seed).sample(sorted(DEVICES), 10)


@pytest.mark.parametrize("names", [_ten(seed) for seed in range(3)], ids="-".join)
def test_what_is_proposed_for_ten_unlike_devices_reads_them_as_it_is(
    broker: Broker, tmp_path: Path, names: list[str]
) -> None:
    devices = [DEVICES[name] for name in names]
    config = tmp_path / "topics.yaml"
    with _publishing(broker, _sent(devices)):
        check = _command("--check", LISTENS, "--check_output", str(config), *_login(broker), cwd=tmp_path)
        output, errors = _all_heard(check, _sent(devices))
    assert check.returncode == 0, errors
    assert config.read_text() in output
    wrong = _wrong(_pasted(config), devices)
    assert len(wrong) <= 1, ({names[i]: fault for i, fault in wrong.items()}, config.read_text())
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith("broker")]


def _all_heard(check: subprocess.Popen[str], messages: Sequence[tuple[str, bytes]]) -> tuple[str, str]:
    """End a check by Ctrl-C once it tells that it has heard all messages, and more than once; its output."""
    assert check.stderr is not None
    count = 0
    while count < 3 * len(messages):
        line = check.stderr.readline()
        told = re.match(r"([\d,]+) messages? of [\d,]+ topics; \d+ s left\n", line)
        assert told, line + check.stderr.read()
        count = int(told[1].replace(",", ""))
    check.send_signal(signal.SIGINT)
    return check.communicate(timeout=LONG)


def test_ctrl_c_ends_it_early_and_prints(broker: Broker, tmp_path: Path) -> None:
    config = tmp_path / "topics.yaml"
    sent = [("fab/n/m1/t", b"1.5")]
    with _publishing(broker, sent):
        check = _command("--check", LISTENS, "--check_output", str(config), *_login(broker), cwd=tmp_path)
        output, errors = _all_heard(check, sent)
    assert check.returncode == 0, errors
    assert "fab/{site}/{machine}/{channel}" in output
    assert _pasted(config).readings[0].template == "fab/{site}/{machine}/{channel}"


def test_what_the_config_reads_is_kept(broker: Broker, tmp_path: Path) -> None:
    own = tmp_path / "record.yaml"
    own.write_text(
        "topics:\n  - template: fab/{site}/{machine}/{channel}\n    codec: {class_path: JSONObject}\n    unit: g\n"
        "labels:\n  - template: fab/{site}/{machine}/events\n"
    )
    sent = [("fab/n/m1/t", b'{"time": 1, "value": 2.5}'), ("new/m2", DEVICES["uptime"].messages[0][1])]
    config = tmp_path / "topics.yaml"
    with _publishing(broker, sent):
        check = _command(
            *("--config", str(own), "--check", LISTENS, "--check_output", str(config)),
            *_login(broker),
            cwd=tmp_path,
        )
        output, errors = _all_heard(check, sent)
    assert check.returncode == 0, errors
    assert "channels t (2.5 g)" in output
    kept, before = _pasted(config), _pasted(own)
    assert kept.readings[-1] == before.readings[0]
    assert kept.labels == before.labels
    assert "new/{machine}" in [topic.template for topic in kept.readings]


def test_the_check_of_a_file_needs_no_broker(tmp_path: Path) -> None:
    device = DEVICES["opc_ua_pubsub"]
    lines = [json.dumps({"topic": topic, "payload_hex": payload.hex()}) for topic, payload in device.messages]
    (tmp_path / "payloads.jsonl").write_text("\n".join(lines))
    check = _command("--check_file", "payloads.jsonl", "--check_output", "topics.yaml", cwd=tmp_path)
    output, errors = check.communicate(timeout=LONG)
    assert (check.returncode, errors) == (0, "")
    assert "channels Speed (1480.5), Load (61.5); times are plausible" in output
    assert output.count("template:") == 1, "the proposal is printed once"
    assert "no topic of the configuration" not in output, "there is none"
    assert "fml record --config topics.yaml --spool FOLDER" in output
    assert not _wrong(_pasted(tmp_path / "topics.yaml"), [device])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["payloads.jsonl", "topics.yaml"]


ERRORS: dict[str, tuple[list[str], str]] = {
    "nobody there": (
        ["--check", "1", "--connection.port", "1"],
        "no connection with the broker .* is it running?",
    ),
    "no name": (
        ["--check", "1", "--connection.host", "plant.invalid"],
        "no connection with the broker plant.invalid",
    ),
    "a password in clear": (
        ["--check", "1", "--connection.host", "plant.invalid", "--connection.username", "me"],
        "connection: plant.invalid is another machine, so expected tls",
    ),
    "no seconds": (["--check", "0"], "check: expected seconds above 0, got 0.0"),
    "no file": (["--check_file", "none.jsonl"], "check_file: cannot read none.jsonl: No such file"),
    "both": (["--check", "1", "--check_file", "x"], "expected check or check_file, got both"),
    "an output alone": (
        ["--check_output", "x"],
        "check_output: expected check or check_file with it, got neither",
    ),
    "no spool": ([], "spool is missing: set --spool"),
}


@pytest.mark.parametrize(("arguments", "sentence"), ERRORS.values(), ids=ERRORS)
def test_errors_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    check = _command(*arguments, cwd=tmp_path)
    output, errors = check.communicate(timeout=LONG)
    assert check.returncode in (1, 2)
    assert re.fullmatch(rf"fml: error: {sentence}.*\n", errors), errors
    assert not output
    assert not list(tmp_path.iterdir())


def test_silence_is_explained(broker: Broker, tmp_path: Path) -> None:
    """plant1 may subscribe to everything here, and read its own topics only."""
    with _publishing(broker, [("plant/other/m1/t", b"1.5")]):
        check = _command("--check", "1", *_login(broker, "plant1.watcher"), cwd=tmp_path)
        _, errors = check.communicate(timeout=LONG)
    assert check.returncode == 1
    assert re.search(r"has sent nothing in \d+ s; either no device has published .*its access list", errors), (
        errors
    )


class _StrictBroker(threading.Thread):
    """A broker that refuses the subscription to everything: with a reason code, or by cutting the client off."""

    def __init__(self, cuts: bool) -> None:
        super().__init__(daemon=True)
        self._cuts = cuts
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]

    def run(self) -> None:
        while True:
            line, _ = self._server.accept()
            with line, contextlib.suppress(OSError):
                self._serve(line)

    def _serve(self, line: socket.socket) -> None:
        while data := line.recv(4096):
            if data[0] >> 4 == 1:  # CONNECT
                line.sendall(b"\x20\x03\x00\x00\x00")
            elif data[0] >> 4 == 8:  # SUBSCRIBE: its length takes one byte here
                asks_all = data[5:8] == b"\x00\x01#"
                if asks_all and self._cuts:
                    return
                line.sendall(b"\x90\x04" + data[2:4] + b"\x00" + (b"\x87" if asks_all else b"\x00"))
                if not asks_all:
                    line.sendall(b"\x30\x0a\x00\x05a/b/c\x001.")
            elif data[0] >> 4 == 14:  # DISCONNECT
                return


@pytest.mark.parametrize("cuts", [False, True])
def test_a_broker_that_does_not_grant_everything_is_asked_for_what_is_configured(cuts: bool) -> None:
    server = _StrictBroker(cuts)
    server.start()
    stop = threading.Event()
    heard: list[Message] = []

    def hear(message: Message) -> None:
        heard.append(message)
        stop.set()

    listener = Listener(Connection(port=server.port), ["a/+/c"], 1 << 20)
    listener.listen(LONG, hear, stop, lambda _: None)
    assert [(message.topic, message.payload) for message in heard] == [("a/b/c", b"1.")]
    assert listener.refused == ["#"]


def test_a_broker_that_grants_nothing_is_told_with_the_filters() -> None:
    server = _StrictBroker(cuts=False)
    server.start()
    listener = Listener(Connection(port=server.port), [], 1 << 20)
    with pytest.raises(UserError, match="lets an anonymous client subscribe to none of #; allow it"):
        listener.listen(LONG, lambda _: None, threading.Event(), lambda _: None)


@pytest.mark.parametrize("login", [None, "watcher"])
def test_a_check_that_a_file_asks_for_is_as_one_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str | None
) -> None:
    asked: list[Connection] = []

    def check(connection: Connection, *_: object) -> int:
        asked.append(connection)
        return 0

    monkeypatch.setattr(record, "check_broker", check)
    config = tmp_path / "record.yaml"
    config.write_text(f"check: 3\nconnection: {{host: 192.0.2.1, username: {login or 'null'}}}\n")
    if login is None:
        assert record.run(["--config", str(config)]) == 0
        assert [each.host for each in asked] == ["192.0.2.1"]
    else:  # whose password would be sent
        with pytest.raises(UserError, match=r"192\.0\.2\.1 is another machine, so expected tls"):
            record.run(["--config", str(config)])
    config.write_text("connection: {host: 192.0.2.1}\n")
    with pytest.raises(UserError, match=r"192\.0\.2\.1 is another machine, so expected tls"):
        record.run(["--config", str(config), "--spool", str(tmp_path / "spool")])
