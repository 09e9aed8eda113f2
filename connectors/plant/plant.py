"""Simulated plants: sites of machines that publish what their sensors measure, live, over MQTT.

| topic | payload |
| --- | --- |
| `plant/{site}/{machine}/vibration` | waveform blocks, 12 kHz (`WaveformBlock`) |
| `plant/{site}/{machine}/temperature` | once a second, `{"time": ms since 1970, "value": °C}` |
| `plant/{site}/{machine}/events` | whenever the state changes, `{"time": ISO 8601, "label": "outer"}`; \
`unlabelled` once machines are in service |
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.waveform import encode_waveform
from fml_lightning.connectors.labels import NO_LABEL
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.publisher import Publisher
from fml_lightning.connectors.plant.simulated_machine import CLASSES, SAMPLE_RATE, SimulatedMachine
from fml_lightning.errors import UserError
from fml_lightning.seeds import derive_seed

log = logging.getLogger(__name__)

LONGEST_RECORDING = 60 * int(SAMPLE_RATE)
"""Samples simulated at once; it bounds the memory. The shaft's phase jumps between two of them."""
TEMPERATURE_PERIOD = 1.0
"""Seconds between two temperatures."""
TIME_CONSTANT = 60.0
"""Seconds in which a housing goes 63 % of the way to its new temperature (Newton's law of cooling)."""
LATE = 1.0
"""Seconds behind the schedule from which on the plant says so."""
WARMTH = 8.0
"""°C by which a fault of full size warms a housing."""
DRAIN = 5.0
"""Seconds that we wait, once we are stopped, for the broker to acknowledge the last messages."""


class Planned(NamedTuple):
    """A message, and when it is to be sent."""

    due: float
    """Seconds since the start, in simulated time."""
    site: str
    topic: str
    payload: bytes


class Progress(NamedTuple):
    """How far a plant has come."""

    seconds: float
    """Simulated seconds so far."""
    published: int
    """Messages sent."""
    acknowledged: int
    """How many of these the broker has acknowledged."""
    behind: float
    """Seconds behind the schedule, of real time."""


@dataclass(frozen=True)
class Plant:
    """Sites of simulated machines, the same as those of `SimulatedFleet` with the same seed.

    Every machine runs through the states normal, ball, inner and outer, again and again; the first four recordings
    are those of the fleet's machine, if the fleet's `seconds` are `seconds_per_state`, at most 60. With
    `labelled_for` machines are in service from then on: they run normally, and no event tells what happens to
    them, such as a fault that grows. The devices' clocks start at the present time and run at `speed`.
    """

    connection: Connection = field(default_factory=Connection)
    """The broker. `{site}` in `username` and `password_file` stands for the site's name, so that each site can be
    a user of its own."""
    sites: int = 3
    """Number of sites, plant1, plant2, …"""
    machines: int = 4
    """Machines per site, plant1-machine1, …"""
    first_site: int = 1
    """Number of the first site; with `sites` of 1, every site can be a process of its own."""
    seed: int = 0
    """Draws the machines and their noise."""
    block: int = 4096
    """Samples per waveform block; the last one of a state is shorter."""
    speed: float = 1.0
    """How many times faster than real time."""
    seconds: float | None = None
    """Simulated seconds; null: until stopped."""
    seconds_per_state: float = 6.0
    """Simulated seconds that a machine stays in a state."""
    labelled_for: float | None = None
    """Simulated seconds for which machines run through the states, each told by an event; from then on they are in
    service, run normally and are unlabelled. null: they run through the states without end."""
    growing: Mapping[str, str] = field(default_factory=dict)
    """Faults that start in service and grow, such as {plant3-machine4: outer}; they need `labelled_for`."""
    drifting: Sequence[str] = ()
    """Machines whose sensor loses half of its gain (6 dB), such as [plant3-machine3]."""
    onset: float = 0.0
    """Simulated seconds from the start after which the faults of `growing` start, at size 0, and the sensors of
    `drifting` begin to drift; not before the end of `labelled_for`."""
    growth: float = 60.0
    """Simulated seconds from then until these faults are as large as those of the labelled states, and these
    sensors have lost half of their gain."""

    def __post_init__(self) -> None:
        if min(self.sites, self.machines, self.first_site) < 1 or self.block < 2:
            raise UserError(
                "Plant: expected sites, machines and first_site of at least 1 and block of at least 2, got"
                f" {self.sites}, {self.machines}, {self.first_site} and {self.block}"
            )
        if not 0 < self.speed < math.inf or not 0.1 <= self.seconds_per_state < math.inf:
            raise UserError(
                "Plant: expected speed above 0 and seconds_per_state of at least 0.1, got"
                f" {self.speed} and {self.seconds_per_state}"
            )
        if self.seconds is not None and not self.seconds > 0:
            raise UserError(
                f"Plant: expected seconds above 0, or null for a plant without an end, got {self.seconds}"
            )
        self._check_troubles()

    def _check_troubles(self) -> None:
        labelled_for = math.inf if self.labelled_for is None else self.labelled_for
        if not labelled_for > 0 or not 0 <= self.onset < math.inf or not 0 < self.growth < math.inf:
            raise UserError(
                "Plant: expected labelled_for and growth above 0 and onset of at least 0, got"
                f" {self.labelled_for}, {self.growth} and {self.onset}"
            )
        if isinstance(self.drifting, str):
            raise UserError(f"Plant.drifting: expected a list of machines, got the text {self.drifting!r}")
        names = {machine for machines in self._machines.values() for machine in machines}
        for what, machines in (("growing", self.growing), ("drifting", self.drifting)):
            if strangers := [machine for machine in machines if machine not in names]:
                raise UserError(
                    f"Plant.{what}: expected machines of this plant, such as {self.site_names[0]}-machine1, got"
                    f" {', '.join(strangers)}"
                )
        for machine, fault in self.growing.items():
            if fault not in CLASSES[1:]:
                raise UserError(
                    f"Plant.growing, {machine}: expected one of {', '.join(CLASSES[1:])}, got {fault!r}"
                )
        if self.growing and self.onset < labelled_for:
            raise UserError(
                "Plant.growing: expected faults to start in service, so labelled_for and an onset that is not"
                f" before it, got labelled_for {self.labelled_for} and onset {self.onset}"
            )

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites."""
        return tuple(f"plant{i}" for i in range(self.first_site, self.first_site + self.sites))

    @property
    def _machines(self) -> dict[str, list[str]]:
        """The machines of each site."""
        return {site: [f"{site}-machine{j}" for j in range(1, self.machines + 1)] for site in self.site_names}

    def messages(self, start: int) -> Iterator[Planned]:
        """All messages in the order they are due; the same for the same seed and start.

        A block is due when its last sample has been measured; the event of a state comes before its blocks.

        Args:
            start: the devices' time of the first sample, µs since 1970, UTC.
        """
        streams = (
            stream
            for site, machines in self._machines.items()
            for machine in machines
            for stream in (self._vibration(site, machine, start), self._temperature(site, machine, start))
        )
        merged = heapq.merge(*streams, key=lambda message: message.due)
        seconds = math.inf if self.seconds is None else self.seconds
        return itertools.takewhile(lambda message: message.due <= seconds, merged)

    def run(
        self, stop: threading.Event, on_progress: Callable[[Progress], None] = lambda progress: None
    ) -> Progress:
        """Publish the messages on schedule, until they end or `stop` is set.

        Args:
            stop: ends the plant, which still waits some seconds for acknowledgements.
            on_progress: called after each message.

        Raises:
            UserError: the broker cannot be reached at the start, or refuses a site or its messages.
        """
        connections = {site: self._connection(site) for site in self.site_names}
        with ExitStack() as stack:
            # One for each user, since some brokers, such as `fml broker`, take one client per user.
            opened = {
                connection: stack.enter_context(Publisher(connection, "plant"))
                for connection in dict.fromkeys(connections.values())
            }
            publishers = {site: opened[connection] for site, connection in connections.items()}
            progress = Progress(0.0, 0, 0, 0.0)
            has_warned = False
            start, began = time.time_ns() // 1000, time.monotonic()
            for message in self.messages(start):
                wait = began + message.due / self.speed - time.monotonic()
                if stop.wait(max(wait, 0.0)):
                    break
                if -wait > LATE and not has_warned:
                    log.warning(
                        "the plant is %.1f s behind its schedule: this machine or the broker cannot keep up; lower"
                        " speed, sites or machines",
                        -wait,
                    )
                    has_warned = True
                if not publishers[message.site].publish(message.topic, message.payload, stop):
                    break
                progress = self._progress(message.due, opened.values(), max(-wait, 0.0))
                on_progress(progress)
            for publisher in opened.values():
                if not publisher.flush(stop) and not publisher.flush(timeout=DRAIN):
                    log.warning(
                        "the broker %s has not acknowledged %d messages",
                        publisher.connection.address,
                        publisher.published - publisher.acknowledged,
                    )
            return self._progress(progress.seconds, opened.values(), progress.behind)

    @staticmethod
    def _progress(seconds: float, publishers: Iterable[Publisher], behind: float) -> Progress:
        counts = [(publisher.published, publisher.acknowledged) for publisher in publishers]
        published, acknowledged = map(sum, zip(*counts, strict=True))
        return Progress(seconds, published, acknowledged, behind)

    def _connection(self, site: str) -> Connection:
        return replace(
            self.connection,
            **{
                name: value.replace("{site}", site)
                for name in ("username", "password_file")
                if (value := getattr(self.connection, name)) is not None
            },
        )

    @property
    def _samples_per_state(self) -> int:
        return int(self.seconds_per_state * SAMPLE_RATE)

    @property
    def _samples_labelled(self) -> float:
        return math.inf if self.labelled_for is None else int(self.labelled_for * SAMPLE_RATE)

    def _progress_of(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far growing faults and drifting sensors have come at these times, from 0 to 1."""
        return np.clip((seconds - self.onset) / self.growth, 0.0, 1.0)

    def _draw(self, machine: str) -> tuple[SimulatedMachine, np.random.Generator]:
        rng = np.random.default_rng(derive_seed(self.seed, machine))
        return SimulatedMachine.draw(rng), rng

    def _states(self) -> Iterator[tuple[str, str, int, float]]:
        """State, label, first sample and end of what machines go through."""
        position = 0
        for state in itertools.cycle(CLASSES):
            end = min(position + self._samples_per_state, self._samples_labelled)
            yield state, state, position, end
            if end == self._samples_labelled:
                break
            position = int(end)
        yield CLASSES[0], NO_LABEL, int(self._samples_labelled), math.inf

    def _vibration(self, site: str, machine: str, start: int) -> Iterator[Planned]:
        """The events and waveform blocks of one machine, without end."""
        simulated, rng = self._draw(machine)
        topic = f"plant/{site}/{machine}"
        for state, label, position, end in self._states():
            since = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=_time(start, position))).isoformat()
            event = json.dumps({"time": since, "label": label}).encode()
            yield Planned(position / SAMPLE_RATE, site, f"{topic}/events", event)
            while position < end:
                samples = int(min(end - position, LONGEST_RECORDING))
                recording = self._record(simulated, machine, state, position, samples, rng)
                for first in range(0, samples, self.block):
                    values = recording[first : first + self.block]
                    payload = encode_waveform(values, SAMPLE_RATE, _time(start, position))
                    position += len(values)
                    yield Planned(position / SAMPLE_RATE, site, f"{topic}/vibration", payload)

    def _record(
        self,
        simulated: SimulatedMachine,
        machine: str,
        state: str,
        position: int,
        samples: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """What a machine's sensor measures from a sample on, with what has happened to the two by then."""
        progress = self._progress_of((position + np.arange(samples)) / SAMPLE_RATE)
        seconds = (
            samples + 0.5
        ) / SAMPLE_RATE  # half a sample more, lest the product with the rate be rounded down
        if machine in self.growing and progress[-1] > 0:
            recording = simulated.run(self.growing[machine], seconds, rng, progress)
        else:
            recording = simulated.run(state, seconds, rng)
        if machine in self.drifting:
            recording = (recording * 0.5**progress).astype(np.float32)
        return recording

    def _temperature(self, site: str, machine: str, start: int) -> Iterator[Planned]:
        """The temperatures of one machine, without end: load warms it, and so does a fault."""
        simulated, _ = self._draw(machine)
        rng = np.random.default_rng(derive_seed(self.seed, machine, "temperature"))
        healthy = 20 + 30 * simulated.load
        temperature = healthy
        for i in itertools.count():
            due = i * TEMPERATURE_PERIOD
            aim = healthy + WARMTH * self._severity(machine, due)
            temperature += (aim - temperature) * -math.expm1(-TEMPERATURE_PERIOD / TIME_CONSTANT)
            value = round(temperature + rng.normal(0, 0.1), 2)
            payload = json.dumps({"time": (start + round(due * 1e6)) // 1000, "value": value}).encode()
            yield Planned(due, site, f"plant/{site}/{machine}/temperature", payload)

    def _severity(self, machine: str, seconds: float) -> float:
        """How large a machine's fault is at a time, from 0 to 1."""
        position = int(seconds * SAMPLE_RATE)
        if position < self._samples_labelled:
            return float(CLASSES[position // self._samples_per_state % len(CLASSES)] != "normal")
        return float(self._progress_of(np.array(seconds))) if machine in self.growing else 0.0


def _time(start: int, position: int) -> int:
    """µs since 1970 of the sample at a position."""
    return start + round(position * 1e6 / SAMPLE_RATE)
