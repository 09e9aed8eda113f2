"""Topics: which MQTT topics carry readings or labels, whose these are, and how the payloads are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec

from fml_lightning.connectors.codecs import Codec, Ignore, JSONScalar, StatefulCodec, describe, from_description
from fml_lightning.connectors.codecs.cbor import check_installed as check_cbor
from fml_lightning.connectors.codecs.fields import Fields
from fml_lightning.connectors.codecs.times import Clock, TimeUnit
from fml_lightning.connectors.codecs.unwrap import Wrapper
from fml_lightning.connectors.decoding.naming import Naming
from fml_lightning.connectors.decoding.template import Names, Template, covers
from fml_lightning.errors import UserError

Format = Literal["json", "cbor", "msgpack"]
"""How payloads are written."""
AnyTopic = TypeVar("AnyTopic", "Topic", "LabelTopic")


@dataclass(frozen=True)
class Topic:
    """A topic that carries readings."""

    template: str = "plant/{site}/{machine}/{channel}"
    """See `Template`."""
    codec: Codec | StatefulCodec = field(default_factory=JSONScalar)
    """How its payloads are read."""
    site: str | None = None
    """The site, where neither topic nor payload names it; or, made of the template's places such as
    `{area}-{line}`, what the topic names."""
    machine: str | None = None
    """The machine, likewise."""
    channel: str | None = None
    """The channel, where the template has no `{channel}`; or made of places, likewise. If this is null and the
    payload names no channel either, the channel is the template's last word."""
    unit: str | None = None
    """The unit of the values, such as `g`, where the payload does not name it."""
    qos: Literal[0, 1] = 1
    """1: nothing is lost. 0: the broker sends each message once and forgets it."""
    unwrap: tuple[Wrapper, ...] = ()
    """What is undone before the codec reads a payload, in this order, the outermost first: `gzip`, `zlib`,
    `deflate`, `base64`, `hex`. The spool keeps the payload as it came."""

    @cached_property
    def parsed(self) -> Template:
        """The template."""
        return Template(self.template)

    def __post_init__(self) -> None:
        _ = self.naming

    @property
    def is_ignored(self) -> bool:
        """Whether its messages are not to be read, nor asked for."""
        return isinstance(self.codec, Ignore)

    @cached_property
    def naming(self) -> Naming:
        """What topics name."""
        return Naming(self.parsed, Names(self.site, self.machine, self.channel))


@dataclass(frozen=True)
class LabelTopic:
    """A topic that carries maintenance events, which say what state a machine is in from when on.

    An event is an object whose members say so, or a label alone; `label_key` and others are the paths of members
    (`Path`), such as `event.state`. A message may have several: a list of objects, or `events[*].state`.
    """

    template: str = "plant/{site}/{machine}/events"
    """See `Template`."""
    time_key: str | None = "time"
    """The member with the moment from which on the label holds; null: it holds from when it is received."""
    time_unit: TimeUnit = "iso"
    """Unit of that time: `s`, `ms`, `us`, `ns` since 1970, or `iso` (ISO 8601; see `time_zone`)."""
    label_key: str | None = "label"
    """The member with the label: text, a number (3 is the label `3`) or a boolean (`true`, `false`). Null: the
    whole payload is the label, and no member says anything."""
    machine_key: str = "machine"
    """The member with the machine, where the topic names none."""
    site: str | None = None
    """The site, where neither topic nor payload names it; or made of places, as of `Topic`."""
    machine: str | None = None
    """The machine, likewise."""
    qos: Literal[0, 1] = 1
    """As of `Topic`."""
    site_key: str | None = None
    """The member with the site, where the topic names none."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What a label means that a payload says, such as `{"1": inner, "true": fault}`; others stay as they are."""
    time_zone: str | None = None
    """The zone, such as Europe/Berlin, of times without an offset from UTC; null: there are none."""
    unwrap: tuple[Wrapper, ...] = ()
    """As of `Topic`."""
    format: Format = "json"
    """How the payloads are written; with `label_key` null, `json` is also text without quotes."""

    @cached_property
    def parsed(self) -> Template:
        """The template."""
        return Template(self.template)

    def __post_init__(self) -> None:
        # YAML takes on, yes and true for one thing, unless they stand in quotes, and digits for a number.
        labels = {word: meant for said, meant in self.labels.items() for word in _texts(said)}
        object.__setattr__(self, "labels", labels)
        _ = self.naming, self.fields, self.clock
        if self.format == "cbor":
            check_cbor()

    @cached_property
    def naming(self) -> Naming:
        """What topics name."""
        return Naming(self.parsed, Names(self.site, self.machine, None))

    @cached_property
    def fields(self) -> Fields | None:
        """Where in a message what stands; None if the whole of it is a label."""
        if self.label_key is None:
            return None
        keys = {"time": self.time_key, "machine": self.machine_key, "site": self.site_key}
        return Fields.of(
            "LabelTopic", self.label_key, {role: key for role, key in keys.items() if key is not None}
        )

    @cached_property
    def clock(self) -> Clock:
        """How the times are written."""
        return Clock(self.time_unit, self.time_zone)


@dataclass(frozen=True)
class Topics:
    """All topics of a source. A message belongs to the first that matches; those of labels are tried first."""

    readings: tuple[Topic, ...] = (Topic(),)
    """Topics of readings."""
    labels: tuple[LabelTopic, ...] = ()
    """Topics of labels."""

    def __post_init__(self) -> None:
        if not self.labels and all(topic.is_ignored for topic in self.readings):
            raise UserError("topics: expected at least one topic of readings or labels, got none")

    def filters(self) -> dict[str, int]:
        """Topic filters to subscribe to, and their QoS.

        A filter that another one covers is left out: the broker would send its messages twice. A topic that is
        ignored has none; its messages come only where another topic's filter covers them.
        """
        found: dict[str, int] = {}
        every: list[Topic | LabelTopic] = [
            *self.labels,
            *(topic for topic in self.readings if not topic.is_ignored),
        ]
        for topic in every:
            found[topic.parsed.filter] = max(topic.qos, found.get(topic.parsed.filter, 0))
        wide = [f for f in found if not any(covers(other, f) for other in found if other != f)]
        return {f: max(qos for other, qos in found.items() if covers(f, other)) for f in wide}

    def dumps(self) -> bytes:
        """As JSON: what `loads` reads."""
        readings = [{**_plain(topic), "codec": describe(topic.codec)} for topic in self.readings]
        return msgspec.json.encode({"readings": readings, "labels": [_plain(topic) for topic in self.labels]})

    @classmethod
    def loads(cls, text: bytes) -> Topics:
        """From JSON; nothing is made of it but topics and codecs (see `from_description`).

        Raises:
            UserError: the text is none of `dumps`, or names a codec that cannot be imported here.
        """
        try:
            content = msgspec.json.decode(text, type=dict[Literal["readings", "labels"], list[dict[str, Any]]])
            readings = [_from_plain(Topic, topic) for topic in content["readings"]]
            labels = [_from_plain(LabelTopic, topic) for topic in content["labels"]]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"topics: expected what `fml record` writes, got something else ({error})") from error
        except KeyError as error:
            raise UserError(f"topics: expected what `fml record` writes; {error} is missing or unknown") from error
        return cls(tuple(readings), tuple(labels))


def _texts(key: object) -> Sequence[str]:
    """The texts that a key of a mapping in YAML may have been."""
    if isinstance(key, bool):
        return ("true", "yes", "on") if key else ("false", "no", "off")
    return (str(key),)


def _plain(topic: Topic | LabelTopic) -> dict[str, Any]:
    return {name: getattr(topic, name) for name in topic.__dataclass_fields__ if name != "codec"}


def _from_plain(kind: type[AnyTopic], plain: dict[str, Any]) -> AnyTopic:
    """A topic of which every value has the type it should."""
    types = get_type_hints(kind) | ({"codec": dict[str, Any]} if kind is Topic else {})
    values = {name: msgspec.convert(value, types[name]) for name, value in plain.items()}
    if kind is Topic:
        values["codec"] = from_description(values["codec"])
    return kind(**values)
