"""Sparkplug B 3.0: births name the metrics, data refer to them by alias, and sequence numbers show what was lost.

https://sparkplug.eclipse.org/specification/version/3.0/documents/sparkplug-specification-3.0.0.pdf
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from fml_lightning.connectors.codecs.codec import (
    LATER,
    LONGEST_NAME,
    CodecError,
    CodecSession,
    Faults,
    PartlyRead,
    Sample,
    StatefulCodec,
)
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.connectors.codecs.sparkplug_metrics import Definition, Metrics
from fml_lightning.connectors.codecs.sparkplug_payload import parse, payload_type
from fml_lightning.connectors.codecs.sparkplug_values import BOOLEAN
from fml_lightning.errors import UserError

REBIRTH = "Node Control/Rebirth"
"""The metric of a command that asks an edge node for its births."""
MOST_KNOWN = 300_000
"""Edge nodes, devices, and names and aliases of metrics, together, that one session remembers."""


@dataclass(frozen=True)
class SparkplugB(StatefulCodec):
    """All topics of Sparkplug B, `spBv1.0/#`.

    The group is the site. The machine is `edge node/device`, as devices are unique only below their edge node, or
    the edge node alone where it speaks for itself. The channel is the metric; of an array without a sample rate,
    `metric/0` and so on; of a data set, `metric/column`; of a template, `metric/member`. A value that is not good,
    as its property `Quality` says, is flagged `BAD`, and a historical one `LATE`; `engUnit` is the unit.
    """

    rebirth_interval: float = 10.0
    """Seconds, at least, between two requests to one edge node to say its births again."""
    sample_rate: float | str | None = field(default=None, metadata=LATER)
    """Hz, of arrays, which then are blocks of samples; or the property of a metric that says it."""

    def __post_init__(self) -> None:
        if not 0 <= self.rebirth_interval < math.inf:
            raise UserError(f"SparkplugB.rebirth_interval: expected 0 s or more, got {self.rebirth_interval}")
        rate = self.sample_rate
        if rate == "" or (isinstance(rate, int | float) and not 0 < rate < math.inf):
            raise UserError(f"SparkplugB.sample_rate: expected Hz above 0 or a property's name, got {rate!r}")
        payload_type()

    def session(self) -> SparkplugSession:
        """A new session, which knows no births."""
        return SparkplugSession(self.rebirth_interval, self.sample_rate)


@dataclass
class EdgeNode:
    """What is known of an edge node since its birth."""

    born: bool = False
    sequence: int | None = None
    """The last message's, 0 to 255."""
    birth: int | None = None
    """`bdSeq` of its birth, by which its death is known."""
    definitions: dict[str | None, dict[int | str, Definition]] = field(default_factory=dict)
    """Its metrics by alias and by name: its devices' by the device's id, and its own under None."""

    def size(self) -> int:
        """How many things are known of it, itself among them."""
        return 1 + sum(1 + len(known) for known in self.definitions.values())


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_NAME)]


class _MetricState(msgspec.Struct, array_like=True):
    """A metric's definition as `SparkplugSession.state` writes it; what older versions wrote ends early."""

    key: Name | int
    """Name or alias."""
    name: Name
    datatype: int
    unit: Name | None = None
    rate: Annotated[float, msgspec.Meta(gt=0)] | None = None


class _DeviceState(msgspec.Struct, array_like=True):
    """A device's metrics as `SparkplugSession.state` writes them."""

    name: Name | None
    metrics: list[_MetricState]


class _NodeState(msgspec.Struct, array_like=True):
    """An edge node, likewise. Its sequence is not kept: it changes with every message, and decodes none."""

    group: Name
    edge: Name
    born: bool
    birth: int | None
    devices: list[_DeviceState]


class SparkplugSession(CodecSession):
    """What the edge nodes of one stream have said so far.

    It remembers at most `MOST_KNOWN` things. Of edge nodes beyond, the births and their metrics are read, but
    nothing is remembered: their data that refer to a birth are errors.
    """

    def __init__(self, rebirth_interval: float, sample_rate: float | str | None = None) -> None:
        self._interval = rebirth_interval
        self._rate = sample_rate
        self._size = 0  # the sum of `EdgeNode.size`
        self._state: bytes | None = None  # until something changes
        self._nodes: dict[tuple[str, str], EdgeNode] = {}
        self._unclear: dict[tuple[str, str], None] = {}  # an ordered set of those to ask for a rebirth
        self._asked: dict[tuple[str, str], float] = {}

    def decode(self, topic: str, payload: bytes) -> Sequence[Sample]:
        """The numeric metrics of a birth or of data, booleans as 0 and 1; control metrics are left out.

        Of data that came before their birth, or after a gap, those metrics are read of which name and datatype are
        known; and `requests` will ask the edge node for its births.

        Raises:
            CodecError: the topic, the payload or some of its metrics are not what they should be.
        """
        group, kind, edge, device = _parts(topic)
        if kind in ("STATE", "NCMD", "DCMD"):
            return ()
        message = parse(payload)
        key = group, edge
        if kind == "NDEATH":
            self._bury(key, message)
            return ()
        if not message.HasField("seq") or message.seq > 255:
            raise CodecError(f"expected seq, 0 to 255, got {message.seq if message.HasField('seq') else 'none'}")
        if kind == "NBIRTH":
            self._forget(key)
        faults = Faults()
        node = self._node(key, faults)
        if kind == "NBIRTH":
            node.born, node.birth = True, _birth_number(message)
        gap = node.sequence is not None and message.seq != (node.sequence + 1) % 256
        node.sequence = message.seq
        is_birth = kind in ("NBIRTH", "DBIRTH")
        if is_birth or kind == "DDEATH":
            forgotten = node.definitions.pop(device, None)
            self._size -= 0 if forgotten is None else 1 + len(forgotten)
            self._state = None
        if gap or not node.born or (kind in ("NDATA", "DDATA") and device not in node.definitions):
            self._ask(key)
        if kind == "DDEATH":
            return faults.check(())
        known = {} if is_birth else node.definitions.get(device, {})
        machine = f"{edge}/{device}" if device else edge
        metrics = Metrics(known, is_birth, message, machine, group, self._rate, faults)
        samples = metrics.read()
        if metrics.has_unknown:
            self._ask(key)
        if is_birth and key in self._nodes and self._has_room(key, device or edge, faults, 1 + len(known)):
            node.definitions[device] = known
            self._size += 1 + len(known)
        return faults.check(PartlyRead(samples, metrics.skipped) if metrics.skipped else samples)

    def requests(self, now: float) -> list[tuple[str, bytes]]:
        """Commands to publish now: they ask edge nodes, of which something is unknown, for their births.

        Args:
            now: seconds since 1970, UTC.
        """
        commands = []
        due = [key for key in self._unclear if now - self._asked.get(key, -math.inf) >= self._interval]
        if due:  # and forget those that may be asked again
            self._asked = {key: at for key, at in self._asked.items() if now - at < self._interval}
        for key in due:
            del self._unclear[key]
            self._asked[key] = now
            command = payload_type()(timestamp=round(now * 1e3))
            command.metrics.add(name=REBIRTH, timestamp=command.timestamp, datatype=BOOLEAN, boolean_value=True)
            commands.append((f"spBv1.0/{key[0]}/NCMD/{key[1]}", command.SerializeToString()))
        return commands

    def state(self) -> bytes:
        """The births, in JSON, in an order that does not depend on when they came."""
        if self._state is None:
            nodes = [
                _NodeState(
                    *key,
                    node.born,
                    node.birth,
                    [
                        _DeviceState(device, [_MetricState(key, *definition) for key, definition in known.items()])
                        for device, known in sorted(node.definitions.items(), key=lambda each: each[0] or "")
                    ],
                )
                for key, node in sorted(self._nodes.items(), key=lambda each: each[0])
                if node.born or node.definitions
            ]
            self._state = msgspec.json.encode(nodes)
        return self._state

    def restore(self, state: bytes) -> None:
        """Know the births that another session has known."""
        nodes = {
            (node.group, node.edge): EdgeNode(
                node.born,
                birth=node.birth,
                definitions={
                    device.name: {
                        metric.key: Definition(metric.name, metric.datatype, metric.unit, metric.rate)
                        for metric in device.metrics
                    }
                    for device in node.devices
                },
            )
            for node in msgspec.json.decode(state, type=list[_NodeState])
        }
        size = sum(node.size() for node in nodes.values())
        if size > MOST_KNOWN:
            raise ValueError(f"expected at most {MOST_KNOWN:,} edge nodes, devices and metrics, got {size:,}")
        self._nodes, self._size, self._state = nodes, size, None
        self._unclear.clear()

    def _node(self, key: tuple[str, str], faults: Faults) -> EdgeNode:
        """What is known of an edge node; of one too many, something that is not remembered."""
        node = self._nodes.get(key)
        if node is None:
            node = EdgeNode()
            if self._has_room(key, key[1], faults, 1):
                self._nodes[key] = node
                self._size += 1
        return node

    def _ask(self, key: tuple[str, str]) -> None:
        """Have `requests` ask an edge node, if it is remembered, for its births."""
        if key in self._nodes:
            self._unclear[key] = None

    def _has_room(self, key: tuple[str, str], name: str, faults: Faults, count: int) -> bool:
        """Whether so many things of one name can be remembered of an edge node; if not, a fault says why."""
        if max(len(name), *map(len, key)) > LONGEST_NAME:
            faults.add(f"expected names of at most {LONGEST_NAME} characters, got {shown(name)}")
        elif self._size + count > MOST_KNOWN:
            faults.add(
                f"more than {MOST_KNOWN:,} edge nodes, devices and metrics, so {shown(name)} is not remembered;"
                " divide the groups among several topics or recordings, or stop who makes up names"
            )
        else:
            return True
        return False

    def _forget(self, key: tuple[str, str]) -> None:
        node = self._nodes.pop(key, None)
        self._size -= node.size() if node is not None else 0
        self._unclear.pop(key, None)  # who is dead cannot answer, and who is born has
        self._state = None

    def _bury(self, key: tuple[str, str], message: Any) -> None:
        """Forget a node that has died; the will of an earlier connection, with another `bdSeq`, is ignored."""
        node = self._nodes.get(key)
        birth = _birth_number(message)
        if node is not None and (birth is None or node.birth is None or birth == node.birth):
            self._forget(key)


def _parts(topic: str) -> tuple[str, str, str, str | None]:
    """Group, kind of message, edge node and device (None: the edge node itself) of a topic."""
    parts = topic.split("/")
    if len(parts) == 3 and parts[:2] == ["spBv1.0", "STATE"]:
        return "", "STATE", parts[2], None
    if len(parts) in (4, 5) and parts[0] == "spBv1.0" and all(parts):
        kinds = ("NBIRTH", "NDEATH", "NDATA", "NCMD") if len(parts) == 4 else ("DBIRTH", "DDEATH", "DDATA", "DCMD")
        if parts[2] in kinds:
            return parts[1], parts[2], parts[3], parts[4] if len(parts) == 5 else None
    raise CodecError(f"expected a topic spBv1.0/group/kind/edge node[/device] of Sparkplug B, got {shown(topic)}")


def _birth_number(message: Any) -> int | None:
    """`bdSeq` of a birth or death of an edge node."""
    for metric in message.metrics:
        if metric.name == "bdSeq":
            return int(metric.long_value if metric.HasField("long_value") else metric.int_value)
    return None
