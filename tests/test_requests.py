"""Requests to `fml site`: what a work leaves behind is freed before the next one."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from fml_lightning.commands.requests import Requests
from fml_lightning.executors.nvflare.envelope import ToSite, encode
from fml_lightning.executors.nvflare.local_link import SITE_SOCKET, connect


@pytest.fixture
def no_automatic_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Trainer:
    """Refers to itself, as Lightning's Trainer does by way of its module."""

    def __init__(self) -> None:
        self.module = self


@pytest.mark.usefixtures("no_automatic_collection")
def test_what_refers_to_itself_does_not_outlive_its_work(tmp_path: Path) -> None:
    left: list[weakref.ref[Trainer]] = []
    alive: list[bool] = []

    def answer(message: bytes) -> bytes:
        alive.append(any(trainer() for trainer in left))
        left.append(weakref.ref(Trainer()))
        return message

    requests = Requests(tmp_path / "site", answer)
    requests.start()
    for number in range(3):
        with connect(tmp_path / "site", SITE_SOCKET) as link:
            link.send(encode(ToSite(topic="work", data=b"%d" % number, expires=time.monotonic() + 100)))
            assert link.receive(100.0) == b"%d" % number
    requests.stop()
    assert alive == [False, False, False]
