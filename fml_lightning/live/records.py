"""Records: what a watch's journal holds. What a watch knows follows from them alone (`state`)."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, TypeAlias

import msgspec

from fml_lightning.errors import UserError
from fml_lightning.live.rules import Rules
from fml_lightning.stream_timing import StreamTiming

What: TypeAlias = Literal["acknowledge", "shelve", "unshelve"]
"""What somebody may ask of a machine's alarm."""
Outcome: TypeAlias = Literal["watches", "kept back", "failed"]
"""Of a new model of a machine that drifts: it watches by now; it is not better, and does not; there is none."""


class Ruled(msgspec.Struct, frozen=True, tag="ruled"):
    """All later records are judged by these rules."""

    rules: Rules


class Began(msgspec.Struct, frozen=True, tag="began"):
    """A watch began to follow a spool, with its first message or with the next one."""

    site: str = msgspec.field(name="spool")
    position: int
    """Sequence number of the last message before."""


class Scores(msgspec.Struct, frozen=True):
    """What a model says of windows of one machine, n in number."""

    machine: str
    version: str
    """Of the model."""
    sequence: list[int]
    """Of the message that completed each window."""
    end: list[int]
    """µs since 1970."""
    duration: float
    """Seconds of each."""
    channels: int
    score: list[float | None]
    """As alarms count it; None: the model says nothing of the window."""
    raw: list[float | None]
    """As the model says of the window as it came; another one where the sensor has drifted."""
    label: list[str]
    confidence: list[float]
    level: list[list[float]]
    """Of each window (`levels.levels`); empty where they are not finite, which JSON could not have."""
    estimate: list[float | None] = []
    """What the model says of each window, where that is a number, such as the remaining life; else empty."""
    failed: list[str] = []
    """Why the model could say nothing of each window, empty where it could; an empty list if it could of all."""


class Scored(msgspec.Struct, frozen=True, tag="scored"):
    """All that messages of a spool, up to one, have completed. One record, so that it counts as a whole or not."""

    site: str = msgspec.field(name="spool")
    position: int
    """Sequence number of the last of these messages."""
    received: int
    """When that was received, µs since 1970."""
    heard: list[str]
    """Machines that have sent anything with these messages."""
    machines: list[Scores]
    missed: int = 0
    """Messages among and before these that were deleted before they were read."""


class Modelled(msgspec.Struct, frozen=True, tag="modelled"):
    """A model is current from here on; messages of the spool up to its position are scored by the one before."""

    site: str = msgspec.field(name="spool")
    machine: str
    version: str
    """Empty: there is none any more."""
    time: int
    """µs since 1970."""
    doubt: str = ""
    """Why the model is doubtful; empty if it is not."""
    problem: str = ""
    """Why its windows cannot be cut or scored; empty if they can."""
    preprocessing: dict[str, Any] = {}
    """`Preprocessing.describe()`."""
    told: dict[str, float] = {}
    """Numbers that are known of the machine."""
    blind: str = ""
    """Why no score comes of the model, whatever it sees; empty if one does."""
    quantity: str = ""
    """What it estimates, in words that follow a number, such as `cycles left`; empty if it estimates none."""
    timing: StreamTiming = StreamTiming()
    """By which its windows are cut."""

    @property
    def preprocessing_hash(self) -> str:
        """The same before and after the record was read from the journal."""
        return hashlib.sha256(msgspec.json.encode(self.preprocessing, order="sorted")).hexdigest()


class Stale(msgspec.Struct, frozen=True, tag="stale"):
    """No window has come of a machine for too long."""

    site: str = msgspec.field(name="spool")
    machine: str
    time: int
    """µs since 1970."""
    reason: str


class Said(msgspec.Struct, frozen=True, tag="said"):
    """Somebody has acknowledged or shelved, or a shelf's time is over."""

    site: str = msgspec.field(name="spool")
    machine: str
    time: int
    """µs since 1970."""
    what: What | Literal["nothing"]
    """Nothing: a line of commands.jsonl that is no command."""
    who: str = ""
    reason: str = ""
    until: int | None = None
    """µs since 1970."""
    offset: int | None = None
    """Bytes of commands.jsonl up to the end of this command; None: it does not stand there."""


class Trying(msgspec.Struct, frozen=True, tag="trying"):
    """A new model of a machine that drifts begins to be made."""

    site: str = msgspec.field(name="spool")
    machine: str
    time: int
    """µs since 1970."""
    newest: dict[str, str]
    """The newest version before, under each name that the site has in the registry."""


class Tried(msgspec.Struct, frozen=True, tag="tried"):
    """What has become of it."""

    site: str = msgspec.field(name="spool")
    machine: str
    time: int
    """µs since 1970."""
    outcome: Outcome
    reason: str
    """A sentence."""


Record: TypeAlias = Ruled | Began | Scored | Modelled | Stale | Said | Trying | Tried

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def dumps(record: Record) -> bytes:
    """One line of JSON."""
    return _ENCODER.encode(record)


def loads(line: bytes) -> Record:
    """The record of a line.

    Raises:
        UserError: it is none, as of a later version of this package.
    """
    try:
        return _DECODER.decode(line)
    except msgspec.DecodeError as error:
        raise UserError(
            f"the watch's journal has a record that this version does not know ({error}); watch with the version"
            " that wrote it, or move the folder away to begin anew"
        ) from error
