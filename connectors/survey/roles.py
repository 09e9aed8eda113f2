"""Roles: what a member of a document says (a value, a time, a name), by its key and by what stands there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from fml_lightning.connectors.codecs.times import TimeUnit
from fml_lightning.connectors.quality import AHEAD, BEHIND
from fml_lightning.connectors.survey.shape import Every, Path, Shape, plain

Role = Literal[
    "value",
    "samples",
    "time",
    "sample_rate",
    "site",
    "machine",
    "name",
    "unit",
    "quality",
    "state",
    "packed",
    "other",
]
"""`samples`: an array of numbers; `name`: names a channel, or something else, beside it; `state`: a text of a few
words; `packed`: bytes, or text that stands for bytes."""

_TIME = {
    *("time", "timestamp", "ts", "t", "date", "datetime", "epoch", "when", "at", "utc", "stamp", "timestamputc"),
    *("sourcetimestamp", "servertimestamp", "eventtime", "createdat", "receivedat", "measuredat", "sampletime"),
    *("observedat", "updatedat", "recordedat", "publishtime", "timems", "timeus", "timens", "times", "tst", "dt"),
    *("zeit", "zeitstempel", "localtime", "devicetime", "unixtime", "unix", "timeutc", "publishedat", "lastseen"),
    *("resulttime", "phenomenontime", "starttime", "begin", "start", "timestamps", "stamps", "tstamp", "datum"),
}
_RATE = re.compile(
    r"(sample|sampling)?_?(rate|freq(uency)?)(_?hz)?|fs(_?hz)?|hz|sps|sr|abtastrate|odr", re.IGNORECASE
)
_SITE = {"site", "plant", "factory", "facility", "building", "siteid", "plantid", "werk", "standort", "sitename"}
_MACHINE = (
    *("machine", "machineid", "machinename", "device", "devicename", "deviceid", "asset", "assetid", "assetname"),
    *("equipment", "equipmentid", "maschine", "anlage", "unitid", "serial", "serialnumber", "serialno", "sn"),
    *("deveui", "eui", "node", "nodeid", "nodename", "host", "hostname", "dev", "thing", "thingid", "thingname"),
    *("gateway", "station", "mac", "macaddress", "imei", "uid", "sensorid", "sensorname", "source", "clientid"),
    *("applicationuri", "publisher", "pump", "motor", "drive", "entity", "slave", "slaveid", "id", "name"),
)
"""In order: of two that could name the machine, the earlier one does."""
_NAME = (
    *("channel", "sensor", "metric", "signal", "variable", "parameter", "tag", "tagname", "measurement", "point"),
    *("ch", "chan", "displayname", "browsename", "propertyalias", "id", "name", "n", "key", "item", "nodeid"),
    *("property", "axis", "register", "type", "slot"),
    *(
        "sensorname",
        "sensorid",
        "channelname",
        "channelid",
        "variablename",
        "symbol",
        "path",
        "field",
        "label",
        "addr",
    ),
    *("address", "dataitemid", "kind", "quantity", "observedproperty"),
)
_UNIT = {
    "unit",
    "units",
    "uom",
    "engunit",
    "engineeringunit",
    "u",
    "einheit",
    "unitofmeasure",
    "unitofmeasurement",
}
_QUALITY = {"quality", "q", "good", "statuscode", "valid", "isgood", "isvalid", "qualitycode", "qc", "st"}
_STATE = {
    *("state", "status", "mode", "exec", "execution", "condition", "opmode", "operationmode", "runstate", "alarm"),
    *("health", "betriebszustand", "zustand", "label", "event", "fault", "power", "switch", "running", "door"),
    *("machinestate", "machinestatus", "operatingstate", "operatingmode", "program", "phase", "availability"),
}
EVENT = {
    *("label", "event", "fault", "state", "status", "condition", "eventtype", "failure", "diagnosis", "faultcode"),
    *("classification", "class", "annotation", "maintenance"),
}
"""Names of members whose text says in what state a machine is."""
SAYS_LABEL = {"label", "fault", "event", "faultcode", "diagnosis", "failure", "class", "eventtype", "annotation"}
"""Names of members that are labels even where they are numbers or booleans, if nothing is measured beside them."""
VALUE = {"value", "v", "val", "values", "reading", "measurement", "wert", "data", "result", "numericvalue", "y"}
VALUE |= {f"{kind}value" for kind in ("double", "float", "integer", "int", "long", "boolean", "scaled")}
"""Names of members that say nothing but that they are a value."""
_COUNTER = {
    *(
        "seq",
        "sequence",
        "sequencenumber",
        "counter",
        "count",
        "msgid",
        "messageid",
        "fcnt",
        "fport",
        "packetid",
        "nonce",
    ),
    *("nsec", "nsecs", "nanosec", "nanosecs", "nanos", "nanoseconds", "offsetinnanos", "usec", "usecs"),
    *(
        "version",
        "specversion",
        "schema",
        "schemaversion",
        "ver",
        "rev",
        "dr",
        "confirmed",
        "f_cnt",
        "f_port",
        "adr",
    ),
    *(
        "msgno",
        "packet",
        "frame",
        "framecount",
        "n_samples",
        "nsamples",
        "numsamples",
        "samplecount",
        "length",
        "size",
    ),
}
"""Names of members that count messages or describe them, or are the fraction of a time, and measure nothing."""
_NUMBERED = {
    "ch",
    "chan",
    "channel",
    "channelid",
    "sensor",
    "register",
    "address",
    "addr",
    "axis",
    "slot",
    "slave",
}
"""Names of members that name something though they are numbers."""
GOOD = {"good", "ok", "valid", "true", "192", "0"}
MOST_WORDS, LONGEST_WORD = 12, 32
"""Of a state: different words, and characters of one."""
_UNITS: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
_PER_SECOND = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
_ISO = re.compile(r"\d{4}-?\d\d-?\d\d(?:[T ]\d\d:?\d\d.*)?")
_PACKED = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_HERTZ = re.compile(r"(\d+\.?\d*)\s*k?hz", re.IGNORECASE)
_EARLIEST, _LATEST = 946_684_800, 4_102_444_800  # 2000 and 2100: what a clock that is only wrong may say


@dataclass(frozen=True)
class Member:
    """One place in documents, and what it says."""

    path: Path
    role: Role
    shape: Shape
    time_unit: TimeUnit | None = None
    """Of a time."""
    is_local: bool = False
    """Whether a time is ISO without an offset from UTC."""
    is_plausible: bool = True
    """Whether a time is about now."""
    is_no_time: bool = False
    """Whether it is a number that is named as a time, and is none that could be now."""
    rank: int = 0
    """Of a name: how likely it is one, 0 the most."""
    remark: str = ""
    """What a person should know."""

    @property
    def scope(self) -> Path:
        """The path up to the last step that stands for every item or member."""
        last = max((i for i, step in enumerate(self.path) if isinstance(step, Every)), default=-1)
        return self.path[: last + 1]

    @property
    def key(self) -> str:
        """The last key, as names are compared."""
        return plain(next((step for step in reversed(self.path) if not isinstance(step, Every)), ""))


def member_of(path: Path, shape: Shape, now: float) -> Member:
    """What stands at a path.

    Args:
        path: where.
        shape: what stands there: no object, but maybe an array of numbers.
        now: seconds since 1970, UTC: about when it was received.
    """
    member = Member(path, "other", shape)
    key = member.key
    if shape.is_array:
        assert shape.items is not None
        if key in _TIME and (time := _time(shape.items, member, now, named=True)):
            return time
        return replace(member, role="samples")
    if shape.blobs:
        return replace(member, role="packed")
    if time := _time(shape, member, now, named=key in _TIME):
        return time
    if key in _TIME and shape.is_number and max(shape.numbers, default=0.0) > 1:
        return replace(
            member,
            is_no_time=True,
            remark="it is named as a time, but is none that could be now: does it count from the start?",
        )
    if _RATE.fullmatch(str(path[-1]) if path else ""):
        if shape.is_number:
            return replace(member, role="sample_rate")
        if shape.texts and all(map(_HERTZ.match, shape.texts)):
            return replace(
                member, remark=f"a sample rate with its unit, {shape.texts[0]!r}, is not read: write its number"
            )
    if key in _SITE and (shape.texts or shape.is_whole):
        return replace(member, role="site")
    if key in _UNIT and shape.texts and not shape.text_numbers:
        return replace(member, role="unit")
    if key in _QUALITY and not any(not float(n).is_integer() for n in shape.numbers):
        return replace(member, role="quality")
    return _name_or_value(member, key)


def _name_or_value(member: Member, key: str) -> Member:
    shape = member.shape
    names = {*_MACHINE, *_NAME}
    is_text = bool(shape.texts) and not shape.text_numbers
    digits = bool(shape.texts or (shape.is_whole and not shape.is_boolean and shape.numbers))
    if key in _COUNTER or (key in names and _counts(shape)):
        return member
    if digits and (key in names or (key.endswith(("id", "name", "serial", "alias")) and len(key) > 2)):
        order = min(_order(_MACHINE, key), _order(_NAME, key))
        if (
            is_text
            or key.endswith(("id", "name", "serial"))
            or key in _NUMBERED | {"sn", "node", "serialnumber", "eui", "deveui"}
        ):
            return replace(member, role="name", rank=order)
    if is_text:
        if _is_packed(shape.texts):
            return replace(member, role="packed")
        words = set(shape.texts)
        if len(words) <= MOST_WORDS and all(len(word) <= LONGEST_WORD for word in words):
            return replace(member, role="state" if key in _STATE | EVENT or words <= _SWITCH else "other")
        return member
    return replace(member, role="value") if shape.is_number else member


_SWITCH = {"on", "off", "ON", "OFF", "On", "Off", "open", "closed", "OPEN", "CLOSED", "true", "false", "yes", "no"}


def machine_rank(member: Member) -> int:
    """How likely a name is that of a machine, 0 the most."""
    return _order(_MACHINE, member.key) if member.key in _MACHINE else len(_MACHINE) + 1


def may_be_machine(member: Member) -> bool:
    """Whether a name may be that of a machine: it is not called as channels are."""
    return member.key in _MACHINE or member.key not in _NAME


def may_be_channel(member: Member) -> bool:
    """Whether what stands there may name a channel: text, or a number where channels are numbered."""
    return bool(member.shape.texts) or member.key in _NUMBERED


def machine_order(name: str) -> int | None:
    """The place of a plain name among those that machines are called by; None: it is none of them."""
    return _MACHINE.index(name) if name in _MACHINE else None


def says_site(name: str) -> bool:
    """Whether a plain name is one that sites are called by."""
    return name in _SITE


def channel_rank(member: Member) -> int:
    """How likely a name is that of a channel, 0 the most."""
    return _order(_NAME, member.key) if member.key in _NAME else len(_NAME) + 1


def _order(names: Sequence[str], key: str) -> int:
    return names.index(key) if key in names else len(names)


def _counts(shape: Shape) -> bool:
    """Whether a name is another one in every message: a count of them, or a random one."""
    if len(shape.texts) >= 3:
        return all(map(_UUID.fullmatch, shape.texts)) and len(set(shape.texts)) == len(shape.texts)
    return len(shape.numbers) >= 4 and all(
        b - a == 1 for a, b in zip(shape.numbers, shape.numbers[1:], strict=False)
    )


def _is_packed(texts: Sequence[str]) -> bool:
    """Whether texts look as if they stood for bytes: long, in base64 or hex, and no words."""
    return all(
        len(text) >= 16
        and _PACKED.fullmatch(text)
        and (text.endswith("=") or (re.search(r"\d", text) and len(text) % 4 == 0))
        for text in texts
    ) and any(len(text) >= 24 or text.endswith("=") for text in texts)


def _time(shape: Shape, member: Member, now: float, named: bool) -> Member | None:
    """The member as a time, if it is one."""
    if shape.moments:
        return replace(member, role="time", time_unit="ms", is_local=any(m.tzinfo is None for m in shape.moments))
    if shape.texts and not shape.numbers and not shape.text_numbers:
        return _iso(shape.texts, member, now)
    numbers = [n for n in (shape.numbers or shape.text_numbers) if n == n]
    if not numbers or shape.is_boolean:
        return None
    middle = sorted(numbers)[len(numbers) // 2]
    for unit in _UNITS:
        seconds = middle / _PER_SECOND[unit]
        if now - BEHIND / 1e6 <= seconds <= now + AHEAD / 1e6 and (named or (shape.is_whole and not shape.texts)):
            return replace(member, role="time", time_unit=unit)
    for unit in _UNITS:
        if named and _EARLIEST <= middle / _PER_SECOND[unit] <= _LATEST:
            return replace(
                member,
                role="time",
                time_unit=unit,
                is_plausible=False,
                remark=_clock(middle / _PER_SECOND[unit], now),
            )
    return None


def _iso(texts: Sequence[str], member: Member, now: float) -> Member | None:
    try:
        if not all(map(_ISO.fullmatch, texts)):
            return None
        moments = [datetime.fromisoformat(text) for text in texts]
    except ValueError:
        return None
    if all(text.isdigit() for text in texts):
        return None
    is_local = any(moment.tzinfo is None for moment in moments)
    seconds = max((m if m.tzinfo else m.replace(tzinfo=UTC)).timestamp() for m in moments)
    is_plausible = now - BEHIND / 1e6 <= seconds <= now + AHEAD / 1e6
    remark = "" if is_plausible else _clock(seconds, now)
    return replace(
        member, role="time", time_unit="iso", is_local=is_local, is_plausible=is_plausible, remark=remark
    )


def _clock(seconds: float, now: float) -> str:
    days = abs(now - seconds) / 86_400
    return f"the device's clock is {days:,.0f} days {'behind' if seconds < now else 'ahead'}"
