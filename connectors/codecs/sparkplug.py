"""Sparkplug B 3.0: births name the metrics, data refer to them by alias, and sequence numbers show what was lost.

https://sparkplug.eclipse.org/specification/version/3.0/documents/sparkplug-specification-3.0.0.pdf
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec

from fml_lightning.connectors.codecs.codec import (
    CodecError,
    CodecSession,
    Faults,
    PartlyRead,
    Sample,
    StatefulCodec,
)
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.connectors.codecs.sparkplug_payload import BOOLEAN, parse, payload_type, value_of
from fml_lightning.connectors.codecs.times import to_microseconds
from fml_lightning.errors import UserError

REBIRTH = "Node Control/Rebirth"
"""The metric of a command that asks an edge node for its births."""
MOST_KNOWN = 300_000
"""Edge nodes, devices, and names and aliases of metrics, together, that one session remembers."""
LONGEST_NAME = 256
"""Characters of a name that a session remembers."""


@dataclass(frozen=True)
class SparkplugB(StatefulCodec):
    """All topics of Sparkplug B, `spBv1.0/#`.

    The group is the site; the machine is the device, or the edge node where it speaks for itself.
    """

    rebirth_interval: float = 10.0
    """Seconds, at least, between two requests to one edge node to say its births again."""

    def __post_init__(self) -> None:
        if not 0 <= self.rebirth_interval < math.inf:
            raise UserError(f"SparkplugB.rebirth_interval: expected 0 s or more, got {self.rebirth_interval}")
        payload_type()

    def session(self) -> SparkplugSession:
        """A new session, which knows no births."""
        return SparkplugSession(self.rebirth_interval)


class Definition(NamedTuple):
    """What a birth says of a metric."""

    name: str
    datatype: int


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


class _DeviceState(msgspec.Struct, array_like=True):
    """A device's metrics as `SparkplugSession.state` writes them."""

    name: Name | None
    metrics: list[tuple[Name | int, Name, int]]
    """Name or alias, name and datatype."""


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

    def __init__(self, rebirth_interval: float) -> None:
        self._interval = rebirth_interval
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
        skipped: dict[str, str] = {}
        samples = [
            Sample(value, time, None, name, device or edge, group)
            for name, value, time in self._metrics(key, known, kind, message, faults, skipped)
        ]
        if is_birth and key in self._nodes and self._has_room(key, device or edge, faults, 1 + len(known)):
            node.definitions[device] = known
            self._size += 1 + len(known)
        return faults.check(PartlyRead(samples, skipped) if skipped else samples)

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
                        _DeviceState(device, [(key, *definition) for key, definition in known.items()])
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
                    device.name: {key: Definition(name, datatype) for key, name, datatype in device.metrics}
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

    def _metrics(
        self,
        key: tuple[str, str],
        known: dict[int | str, Definition],
        kind: str,
        message: Any,
        faults: Faults,
        skipped: dict[str, str],
    ) -> Iterator[tuple[str, float, int | None]]:
        """Name, value and time (µs) of each metric that measures something.

        Errors are added to `faults`, metrics that are no numbers to `skipped`.
        """
        for metric in message.metrics:
            try:
                definition = _definition(metric, known)
                if kind in ("NBIRTH", "DBIRTH"):
                    known[definition.name] = definition
                    if metric.HasField("alias"):
                        known[metric.alias] = definition
                if _is_control(definition.name):
                    continue
                value = value_of(metric, *definition)
                if value is None and definition.datatype > BOOLEAN and not metric.is_null:
                    skipped[definition.name] = "no numbers"
                if value is not None:
                    stamped = metric if metric.HasField("timestamp") else message
                    time = to_microseconds(stamped.timestamp, "ms") if stamped.HasField("timestamp") else None
                    yield definition.name, value, time
            except _UnknownMetricError as error:
                self._ask(key)
                faults.add(str(error))
            except CodecError as error:
                faults.add(str(error))


class _UnknownMetricError(CodecError):
    """A metric that no birth has told of."""


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


def _is_control(name: str) -> bool:
    """Whether a metric steers its edge node or device, or counts its births, and measures nothing."""
    return name == "bdSeq" or name.startswith(("Node Control/", "Device Control/"))


def _birth_number(message: Any) -> int | None:
    """`bdSeq` of a birth or death of an edge node."""
    for metric in message.metrics:
        if metric.name == "bdSeq":
            return int(metric.long_value if metric.HasField("long_value") else metric.int_value)
    return None


def _definition(metric: Any, known: dict[int | str, Definition]) -> Definition:
    """Name and datatype of a metric, from itself or from its birth."""
    name = metric.name
    if not isinstance(name, str):  # protobuf gives bytes where they are not UTF-8
        raise CodecError("expected a metric's name in UTF-8")
    if len(name) > LONGEST_NAME:
        raise CodecError(f"expected a metric's name of at most {LONGEST_NAME} characters, got {shown(name)}")
    born = known.get(name) if name else known.get(metric.alias) if metric.HasField("alias") else None
    name = name or (born.name if born is not None else "")
    datatype = metric.datatype or (born.datatype if born is not None else 0)
    if not name or not datatype:
        which = f"metric {shown(name)}" if name else f"alias {metric.alias}"
        raise _UnknownMetricError(f"expected a birth that tells name and datatype of {which}, got none yet")
    return Definition(name, datatype)
