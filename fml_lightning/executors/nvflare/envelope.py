"""What the processes of a host say to the hubs in NVFlare's processes, around messages that the hubs do not read.

All of it is msgpack in typed structs; this file and the hubs load neither torch nor NumPy, so that NVFlare's
processes stay small.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, TypeVar, overload

import msgspec

WORK = "work"
"""The topic of what `fml fit` asks sites."""
FETCH = "fetch"
"""The topic of what sites ask the server for."""
RELEASED = "released"
"""The folder, below the server's, with a file `RUN.ckpt` of each run that sites may fetch."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Bytes = Annotated[int, msgspec.Meta(gt=0)]


class _Said(msgspec.Struct, tag_field="kind", kw_only=True):
    """Tells which struct it is by the field `kind`."""


class Who(_Said, tag="who"):
    """To ServerHub: which sites are connected? It answers `Connected`."""


class Ask(_Said, tag="ask"):
    """To ServerHub: send a message to sites. It answers `Answer` or `Failure` for each, as they come."""

    number: int
    """Which asking this is; the answers bear it."""
    clients: list[str]
    topic: str
    deadline: Seconds
    most_bytes: Bytes
    """How long an answer may be."""
    data: bytes
    run: str = ""
    """The run that it is about, for whoever watches the server."""
    round: int | None = None
    """The round, likewise."""


class Forget(_Said, tag="forget"):
    """To ServerHub: answers to an asking are no longer wanted."""

    number: int


class Disable(_Said, tag="disable"):
    """To ServerHub: let sites in no more, from now on and after restarts. It answers `Done`."""

    clients: list[str]


class Enable(_Said, tag="enable"):
    """To ServerHub: let sites in again. It answers `Done`."""

    clients: list[str]


class Member(msgspec.Struct, frozen=True):
    """A site whose NVFlare client is registered at the server."""

    name: str
    """Of its certificate."""
    seen: float
    """Seconds since its last heartbeat."""


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What ServerHub has carried since it began."""

    askings: int = 0
    """A round asks once, and once more for each time that sites are measured."""
    sent: int = 0
    """Bytes of messages to sites."""
    received: int = 0
    """Bytes of their answers."""
    run: str = ""
    """The run of the last asking."""
    round: int | None = None
    """Its round, counted from 0."""


class Connected(_Said, tag="who"):
    """The sites that are connected."""

    clients: list[Member]
    refused: dict[str, str] = {}
    """Sites that are there and take no part, and why."""
    carried: Carried = Carried()


class Answer(_Said, tag="answer"):
    """What a site answered."""

    number: int
    client: str
    data: bytes


class Failure(_Said, tag="failure"):
    """Why there is no answer of a site."""

    number: int
    client: str
    reason: str
    silent: bool
    """Nothing at all came back; else the site's host has said so."""


class Done(_Said, tag="done"):
    """What became of `Disable` and `Enable`."""

    reason: str = ""
    """Why it could not be done; empty: it is done."""


class Passed(msgspec.Struct, kw_only=True, frozen=True):
    """From ServerHub to SiteHub, and from `fml fetch` to SiteHub and on to ServerHub."""

    topic: str
    data: bytes
    deadline: Seconds


class ToSite(msgspec.Struct, kw_only=True, frozen=True):
    """From SiteHub to `fml site`, which answers with the bytes of a message."""

    topic: str
    data: bytes
    expires: float
    """When nobody waits for the answer any more, by `time.monotonic()` of this host."""


class Reply(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The answer to `Passed`: either what was answered, or why there is none."""

    data: bytes | None = None
    reason: str = ""


class Fetch(msgspec.Struct, kw_only=True, frozen=True):
    """A site asks what the server has released to sites: for the list, or for a piece of one file."""

    run: str = ""
    """The run's id; empty: the list."""
    at: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Where in the file the piece begins."""


class Released(msgspec.Struct, frozen=True):
    """A checkpoint that the server hands out: `released/RUN.ckpt` in its folder."""

    run: str
    bytes: int
    time: float
    """When it was released, seconds since 1970 by the server's clock."""


class Fetched(msgspec.Struct, kw_only=True, frozen=True):
    """The answer to `Fetch`."""

    released: list[Released] = []
    piece: bytes = b""
    reason: str = ""
    """Why there is nothing."""


ToHub = Who | Ask | Forget | Disable | Enable
"""What processes of the server's host say to ServerHub."""
FromHub = Connected | Answer | Failure | Done
"""What ServerHub says to them."""

encode = msgspec.msgpack.encode
_Kind = TypeVar("_Kind")


class EnvelopeError(ValueError):
    """Bytes that are no such thing."""


@overload
def decode(data: bytes, kind: type[_Kind]) -> _Kind: ...
@overload
def decode(data: bytes, kind: UnionType) -> Any: ...
def decode(data: bytes, kind: Any) -> Any:
    """What bytes say.

    Args:
        data: as `encode` makes them.
        kind: the struct, or the union of structs, that is expected.

    Raises:
        EnvelopeError: they say something else.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise EnvelopeError(f"expected another message ({error})") from error
