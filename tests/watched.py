"""A site whose machines' signals are made by hand, recorded into a spool, and watched by models made by hand."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fml_lightning.connectors.codecs import WaveformBlock
from fml_lightning.connectors.codecs.waveform import encode_waveform
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.objectives import Classification
from fml_lightning.personal.card import Card, Windows
from fml_lightning.personal.personal_model import PersonalModel
from fml_lightning.personal.registry import Registry
from fml_lightning.preprocessing import LogBandPowers, Preprocessing, Windowing

BEGIN = 1_800_000_000_000_000
"""µs since 1970."""
SECOND = 1_000_000
"""µs."""
RATE = 1024.0
"""Hz."""
LENGTH = 256
"""Samples of a window: a quarter of a second."""
SITE = "plant"
TOPICS = Topics((Topic("plant/{site}/{machine}/{channel}", WaveformBlock()),), (LabelTopic(),))


def model(bias: float = 0.0, site: str = SITE, machine: str = "m") -> PersonalModel:
    """Normal where the upper half of the spectrum is no louder than the lower one; outer where it is by far."""
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, 1.0, 1.0]]) * 2)
        net.bias.copy_(torch.tensor([0.0, bias - 6.0]))
    return PersonalModel(
        net,
        Classification(),
        torch.zeros(4),
        None,
        ("normal", "outer"),
        preprocessing=Preprocessing(
            Windowing(length=LENGTH, hop=LENGTH), LogBandPowers(bands=4), ("vibration",), RATE
        ),
        site=site,
        machine=machine,
    )


def card(machine: str = "m", site: str = SITE, verdict: str = "ship", reasons: Sequence[str] = ()) -> Card:
    """A card of such a model."""
    none = Windows(count=0)
    return Card(
        site=site,
        machine=machine,
        before=0.5,
        after=1.0,
        metric="accuracy",
        shots=1,
        support=none,
        query=none,
        steps=1,
        learner="MAML",
        adaptation="by hand",
        seconds=0.0,
        made="2027-01-01T00:00:00+00:00",
        verdict=verdict,  # type: ignore[arg-type]
        reasons=tuple(reasons),
    )


def give_models(run: Path, *machines: str) -> Registry:
    """Put a model of each machine into the registry of a run."""
    registry = Registry(run / "machines")
    for machine in machines:
        registry.add(model(machine=machine), card(machine))
    return registry


def signal(seconds: float, fault: float = 0.0, seed: int = 0, gain: float = 1.0) -> NDArray[np.float32]:
    """Noise of deviation 1, with a tone of an amplitude in the upper half of the spectrum."""
    n = round(seconds * RATE)
    noise = np.random.default_rng(seed).normal(size=n)
    return ((noise + fault * np.sin(2 * np.pi * 400 / RATE * np.arange(n))) * gain).astype(np.float32)


def messages(
    values: NDArray[np.float32],
    machine: str = "m",
    begin: int = BEGIN,
    block: int = LENGTH,
    received: int | None = None,
) -> list[Message]:
    """Blocks of a signal as they are sent, each received when it is complete."""
    found = []
    for at in range(0, len(values), block):
        part = values[at : at + block]
        time = begin + round(at / RATE * 1e6)
        came = time + round(len(part) / RATE * 1e6) if received is None else received
        found.append(Message(f"plant/{SITE}/{machine}/vibration", encode_waveform(part, RATE, time), came))
    return found


def in_time(*streams: Sequence[Message]) -> list[Message]:
    """The messages of several machines in the order in which they are received."""
    return sorted((message for stream in streams for message in stream), key=lambda message: message.received)


def record(folder: Path, some: Sequence[Message], group: int = 50) -> None:
    """Append messages to a spool."""
    with Spool(folder) as spool:
        write_topics(folder, TOPICS)
        for at in range(0, len(some), group):
            spool.append(some[at : at + group])


def endless(*machines: str) -> Iterator[tuple[str, bytes]]:
    """Topics and payloads of machines from an hour ago on; the first is sick every other 8 seconds."""
    begin = time.time_ns() // 1000 - 3600 * SECOND
    blocks = round(8 * RATE / LENGTH)
    for block in itertools.count():
        at = begin + round(block * LENGTH / RATE * 1e6)
        for place, machine in enumerate(machines):
            fault = 6.0 if place == 0 and block // blocks % 2 else 0.0
            values = signal(LENGTH / RATE, fault, seed=block * len(machines) + place)
            yield f"plant/{SITE}/{machine}/vibration", encode_waveform(values, RATE, at)
