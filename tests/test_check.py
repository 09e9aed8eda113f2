"""`fml record --check`: what a user with an unknown plant gets."""

from __future__ import annotations

import random
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

from fml_lightning.commands.process import settings_of
from fml_lightning.commands.record import _options
from fml_lightning.connectors import Message, Publisher, Topics
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.survey.judgement import judged

LISTENS = "4"
"""Seconds that a check listens here: everything is published again and again meanwhile."""


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
        output, errors = check.communicate(timeout=LONG)
    assert check.returncode == 0, errors
    assert config.read_text() in output
    wrong = _wrong(_pasted(config), devices)
    assert len(wrong) <= 1, ({names[i]: fault for i, fault in wrong.items()}, config.read_text())
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith("broker")]
