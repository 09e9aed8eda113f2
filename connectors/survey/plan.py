"""Plans: the ways in which a map codec could read what stands in documents, the most likely ones first."""

from __future__ import annotations

import contextlib
import itertools
import os
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path as File
from typing import Any, Literal

import numpy as np

from fml_lightning.connectors.codecs import CodecError
from fml_lightning.connectors.codecs.binary import Binary, ByteOrder, DType
from fml_lightning.connectors.survey.roles import (
    GOOD,
    VALUE,
    Member,
    channel_rank,
    machine_rank,
    may_be_channel,
    may_be_machine,
)
from fml_lightning.connectors.survey.shape import CONTAINERS, Every, Path, plain

_DECODED = {"object", "decodedpayload", "payloadfields", "decoded", "decodeddata", "decodedobject"}
"""Objects of LoRaWAN servers with what the device measured; what stands beside them is about the radio."""
_ABOUT = {"errors", "error", "meta", "metadata", "header", "context", "schema", "rxinfo", "txinfo", "tags"}
"""Objects that say something about what was measured."""
PLACES = ("site", "machine", "channel")
"""What has a name."""
_VECTOR = 4
"""Numbers of an array that may be axes, at most, rather than samples."""


@dataclass(frozen=True)
class Plan:
    """One way to read a document."""

    arguments: Mapping[str, Any]
    """Fields of the map codec."""
    names: frozenset[str]
    """What the payload names: `site`, `machine`, `channel`."""
    comments: Mapping[str, str] = field(default_factory=dict)
    """What a person should look at, by field."""
    remarks: Sequence[str] = ()
    """What is not read, and why."""
    missing: str = ""
    """What a person must say before it can be used; empty: nothing."""
    is_number: bool = False
    """Whether what names the machine is a number, which may count anything."""


def plans(members: Sequence[Member], now: float) -> Iterator[Plan]:
    """Ways to read documents with these members.

    Args:
        members: all that stands in the documents.
        now: seconds since 1970, UTC: about when they were received.
    """
    members = [m for m in members if m.path not in ((), (Every.ITEM,))]  # a map codec reads members
    values, remarks = _measured(members)
    rates = [m for m in members if m.role == "sample_rate"]
    sampled = [m for m in values if rates and _is_sampled(m, members)]
    values = [m for m in values if m not in sampled]
    arrays = [m for m in members if m.role == "samples"] + sampled
    packed = [m for m in members if m.role == "packed"]
    if not arrays and not packed:
        values, rates = values + rates, []  # a frequency is then what was measured
    rows = [m for m in arrays if rates and m.path[-1] is Every.ITEM and len(set(m.shape.lengths)) == 1]
    if rows:
        yield from _axes(members, [], rows, rates[0], [*remarks, *_left(values)], now)
    elif arrays and rates:
        yield from _read(members, [*values, *arrays], rates[0], remarks, now)
    for stamps in (m for m in members if m.role == "time" and m.shape.is_array and not rates):
        stamped = [array for array in arrays if array.shape.lengths == stamps.shape.lengths]
        if stamped:
            yield from _read(members, stamped, None, [*remarks, *_left(values)], now)
    vectors = [a for a in arrays if not rates and len(set(a.shape.lengths)) == 1 and a.shape.lengths[0] <= _VECTOR]
    if vectors:
        yield from _axes(members, values, vectors, None, remarks, now)
    if packed and rates:
        yield from _packed(members, packed, rates[0], remarks, now)
    if values:
        unread = [
            f"not read: {path_text(a.path)}: an array of numbers; say its sample_rate, in Hz, and it is read"
            for a in arrays
            if not rates
        ]
        yield from _read(members, values, None, [*remarks, *unread], now)
    elif arrays and not rates:
        for plan in _read(members, arrays, None, remarks, now):
            yield Plan(
                {**plan.arguments, "sample_rate": 1.0},
                plan.names,
                {**plan.comments, "sample_rate": "Hz: which? nothing in the payload says it"},
                plan.remarks,
                f"the sample rate of {path_text(arrays[0].path)}",
            )


def _measured(members: Sequence[Member]) -> tuple[list[Member], list[str]]:
    """The values, and what is said of those that are left out."""
    has_time = any(m.role == "time" and m.is_plausible for m in members)
    members = [replace(m, role="value", remark="") if has_time and m.is_no_time else m for m in members]
    values = [m for m in members if m.role == "value"]
    remarks = [f"not read: {path_text(m.path)}: {m.remark}" for m in members if m.remark and m.role == "other"]
    for state in (m for m in members if m.role == "state" and m.shape.texts):
        words = ", ".join(dict.fromkeys(state.shape.texts))
        path = path_text(state.path)
        remarks.append(f"not read: {path}: a state ({words}); to read it, give each word a number in states")
    decoded = [m for m in values if any(plain(step) in _DECODED for step in m.path[:-1])]
    if decoded:
        return decoded, remarks
    about = [m for m in values if any(plain(step) in _ABOUT for step in m.path[:-1])]
    if len(about) == len(values):
        return values, remarks
    return [m for m in values if m not in about], [*remarks, *_left(about)]


def _is_sampled(value: Member, members: Sequence[Member]) -> bool:
    """Whether a number stands in each item of a list that says neither names nor times: it is a sample."""
    return value.path[-2:-1] == (Every.ITEM,) and not any(
        m.role in ("name", "time", "sample_rate") and m.scope == value.scope for m in members
    )


def _left(values: Sequence[Member]) -> list[str]:
    return [f"not read: {path_text(m.path)}: it stands elsewhere than the values" for m in values]


def _read(
    members: Sequence[Member], values: Sequence[Member], rate: Member | None, remarks: Sequence[str], now: float
) -> Iterator[Plan]:
    """Plans for these values, or for those of them that are items of one array."""
    lists = list(dict.fromkeys(_list_of(m.path) for m in values))
    lists.sort(key=lambda prefix: -sum(m.shape.count for m in values if _list_of(m.path) == prefix))
    groups = [[m for m in values if _list_of(m.path) == prefix] for prefix in lists]
    if len(groups) > 1:
        yield from _forms(members, values, rate, remarks, now)
    for group in groups:
        others = [m for m in values if m not in group]
        yield from _forms(members, group, rate, [*remarks, *_left(others)], now)


def _forms(
    members: Sequence[Member], values: Sequence[Member], rate: Member | None, remarks: Sequence[str], now: float
) -> Iterator[Plan]:
    for form in _value_forms(values):
        for names, comments in _name_choices(members, values, form.is_named):
            for time in _times(members, values, rate is not None):
                arguments: dict[str, Any] = {"value": form.value, **names, **_time_fields(time, now, comments)}
                if rate is not None:
                    arguments["sample_rate"] = path_text(rate.path)
                arguments |= _beside(members, values, comments)
                used = {text for key, text in arguments.items() if key != "value" and isinstance(text, str)}
                if ignore := _ignored(members, values, form, used):
                    arguments["ignore"] = ignore
                texts = [form.value] if isinstance(form.value, str) else list(form.value)
                said = " ".join([*texts, names.get("pattern", "")])
                named = {place for place in PLACES if place in names or f"{{{place}}}" in said}
                named |= {"channel"} if form.is_named else set()
                is_number = any(
                    m.shape.numbers and path_text(m.path) == names.get("machine")
                    for m in members
                    if m.role == "name"
                )
                yield Plan(arguments, frozenset(named), dict(comments), remarks, is_number=is_number)


@dataclass(frozen=True)
class _Form:
    """What `value` may be."""

    value: Any
    is_named: bool
    """Whether it names the channels."""
    stars: Sequence[tuple[Path, int]] = ()
    """Of paths that end with `*`: where the first of these stands, and how many they are."""


def _value_forms(values: Sequence[Member]) -> Iterator[_Form]:
    """What `value` may be; forms that also read what is yet unheard come first."""
    paths = [m.path for m in values]
    named = _key_name(paths)
    if len(paths) == 1 and paths[0] and not isinstance(paths[0][-1], Every):
        path = paths[0]
        if Every.KEY in path:
            yield _Form(path_text(path, named), named == "{channel}")
        if values[0].key in VALUE or values[0].role == "samples":
            yield _Form(path_text(path), Every.KEY in path)
    common = _common(paths)
    outer = common
    while outer and isinstance(outer[-1], str) and plain(outer[-1]) not in CONTAINERS:
        outer = outer[:-1]
    for prefix in dict.fromkeys((outer, common)):
        if Every.ITEM not in {step for path in paths for step in path[len(prefix) :]}:
            depths = sorted({len(path) - len(prefix) for path in paths})
            text = path_text(prefix, named if named == "{machine}" else "*")
            stars = tuple(_joined(text, ".".join(["*"] * depth)) for depth in depths)
            yield _Form(stars[0] if len(stars) == 1 else stars, True, [(prefix, depth) for depth in depths])
    containers = list(dict.fromkeys(path[:-1] for path in paths))
    keys = [path[-1] for path in paths]
    if len(containers) > 1 and len(set(keys)) == len(keys):
        every = tuple(_joined(path_text(path), "*") for path in containers)
        yield _Form(every, True, [(path, 1) for path in containers])
    explicit = [path_text(path) for path in paths]
    if not {Every.ITEM, Every.KEY} & set(itertools.chain(*paths)):
        names = ["/".join(map(str, path[len(common) :])) for path in paths]
        yield _Form(dict(zip(names, explicit, strict=True)), True)
    if len(explicit) > 1:
        yield _Form(tuple(explicit), True)
    elif Every.KEY not in paths[0]:
        yield _Form(explicit[0], False)


def _key_name(paths: Sequence[Path]) -> str:
    """What the keys that stand in place of `Every.KEY` name: machines, where each has a list of several values."""
    is_machine = all((Every.KEY, Every.ITEM) in itertools.pairwise(path) for path in paths)
    is_machine = is_machine and (len(paths) > 1 or paths[0][-2:-1] != (Every.ITEM,))
    return "{machine}" if is_machine else "{channel}"


def _name_choices(
    members: Sequence[Member], values: Sequence[Member], is_named: bool
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Which members name site, machine and channel, and comments on these choices."""
    within = [m for m in members if m.role == "name" and _reaches(m, values)]
    fixed: dict[str, str] = {}
    sites = [m for m in members if m.role == "site" and _reaches(m, values)]
    if sites:
        fixed["site"] = path_text(sites[0].path)
    in_items = [m for m in within if Every.ITEM in m.scope]
    around = [m for m in within if Every.ITEM not in m.scope]
    can_name_channel = not is_named and len(values) == 1
    machines = sorted(
        (m for m in in_items + around if may_be_machine(m)), key=lambda m: (machine_rank(m), len(m.path))
    )
    if can_name_channel:
        channels = sorted(in_items or around, key=lambda m: (channel_rank(m), len(m.path)))
        for channel in channels[:2]:
            if not may_be_channel(channel):
                continue
            others = [m for m in machines if m is not channel and not _is_same(m, channel)]
            rest = [m for m in others if machine_rank(m) < machine_rank(channel)]
            rest = rest or [m for m in around if m in others]
            if rest:
                yield {**fixed, "machine": path_text(rest[0].path), "channel": path_text(channel.path)}, {}
            elif sign := common_sign(channel.shape.texts):
                yield (
                    {**fixed, "name": path_text(channel.path), "pattern": f"{{machine}}{sign}{{channel}}"},
                    {"pattern": "is it the machine that comes first?"},
                )
            elif values[0].key in VALUE and (channel.key != "id" or Every.ITEM in channel.scope):
                yield {**fixed, "channel": path_text(channel.path)}, {}
    if machines:
        yield {**fixed, "machine": path_text(machines[0].path)}, {}
    if can_name_channel and in_items:
        for channel in in_items:
            yield {**fixed, "channel": path_text(channel.path)}, {}
    yield fixed, {}


def _is_same(name: Member, other: Member) -> bool:
    """Whether two members name the same things: each word of one goes with one word of the other."""
    one, two = ([str(word) for word in m.shape.texts or m.shape.numbers] for m in (name, other))
    return len(set(one)) > 1 and [one.index(word) for word in one] == [two.index(word) for word in two]


def common_sign(texts: Sequence[str]) -> str | None:
    """What parts every one of some texts, such as `L1.Pump.Speed`."""
    for sign in "./:|":
        if all(sign in text.strip(sign) for text in texts) and len(set(texts)) > 1:
            return sign
    return None


def _times(members: Sequence[Member], values: Sequence[Member], has_rate: bool) -> Iterator[Member | None]:
    """The members that may be the values' time, the most likely one first; None: no time is sent."""
    times = [m for m in members if m.role == "time" and _reaches(m, values)]
    if not has_rate and any(m.role == "samples" for m in values):
        times = [m for m in times if m.shape.is_array]  # a time for each sample
    else:
        times = [m for m in times if not m.shape.is_array]
    beside = [m for m in times if m.scope and m.scope == values[0].scope]
    names = ("time", "timestamp", "ts", "sourcetimestamp")
    order: Callable[[Member], Any] = lambda m: (  # noqa: E731
        not m.is_plausible,
        m not in beside,
        names.index(m.key) if m.key in names else len(names),
        len(m.path),
    )
    found = sorted(times, key=order)[:2]
    yield from found
    if not found:
        yield None


def _time_fields(time: Member | None, now: float, comments: dict[str, str]) -> dict[str, Any]:
    if time is None:
        comments["time"] = "none is sent: a reading has the time at which it is received"
        return {"time": None}
    fields: dict[str, Any] = {"time": path_text(time.path), "time_unit": time.time_unit}
    if time.remark:
        comments["time"] = time.remark
    if time.is_local:
        fields["time_zone"] = time_zone(time, now)
        comments["time_zone"] = "which? the device says no offset from UTC"
    return fields


def time_zone(time: Member, now: float) -> str:
    """The zone in which the latest stamp would be now, or this machine's, or UTC."""
    stamps = [m for m in time.shape.moments if m.tzinfo is None]
    stamps += [datetime.fromisoformat(text) for text in time.shape.texts]
    local = max(stamp.replace(tzinfo=None) for stamp in stamps)
    ahead = (local - datetime(1970, 1, 1)).total_seconds() - now
    here = _zone_here()
    if (datetime.fromtimestamp(now).astimezone().utcoffset() or 0) and here:
        offset = datetime.fromtimestamp(now).astimezone().utcoffset()
        if offset is not None and abs(offset.total_seconds() - ahead) < 600:
            return here
    hours = round(ahead / 3600)
    if hours and abs(ahead - 3600 * hours) < 600 and -12 <= hours <= 14:
        return f"Etc/GMT{-hours:+d}"  # whose signs are the other way round
    return "UTC"


def _zone_here() -> str | None:
    """The IANA name of this machine's zone, where the system says it."""
    parts = os.path.realpath("/etc/localtime").partition("zoneinfo/")
    return parts[2] if File(parts[0] + parts[1] + parts[2]).is_file() and parts[2] else None


def _beside(members: Sequence[Member], values: Sequence[Member], comments: dict[str, str]) -> dict[str, Any]:
    """Unit and quality, where they are said of these values."""
    fields: dict[str, Any] = {}
    units = [m for m in members if m.role == "unit" and m.scope == values[0].scope]
    if len(values) == 1 and units:
        fields["unit"] = path_text(units[0].path)
    for quality in (m for m in members if m.role == "quality" and m.scope == values[0].scope):
        said = {_word(word) for word in (*quality.shape.texts, *(_plain_number(n) for n in quality.shape.numbers))}
        if quality.shape.is_boolean or said & {"good", "192"}:
            fields["quality"] = path_text(quality.path)
        elif good := said & GOOD:
            fields["quality"] = path_text(quality.path)
            fields["good"] = tuple(int(word) if word.isdigit() else word for word in sorted(good))
            comments["good"] = "which values mean that a reading is good?"
        if "quality" in fields:
            break
    return fields


def _word(text: str) -> str:
    return text.strip().lower()


def _plain_number(number: float) -> str:
    return str(int(number)) if number.is_integer() else str(number)


def _ignored(members: Sequence[Member], values: Sequence[Member], form: _Form, used: set[str]) -> tuple[str, ...]:
    """What `*` would find beside the values, and is none."""
    own = {m.path for m in values}
    found = [
        path_text(m.path)
        for m in members
        for prefix, depth in form.stars
        if m.path not in own and m.path[: len(prefix)] == prefix and len(m.path) == len(prefix) + depth
    ]
    return tuple(text for text in dict.fromkeys(found) if text not in used)


def _axes(
    members: Sequence[Member],
    values: Sequence[Member],
    vectors: Sequence[Member],
    rate: Member | None,
    remarks: Sequence[str],
    now: float,
) -> Iterator[Plan]:
    """Plans for arrays whose items are channels each, such as three axes; with a rate, many arrays of them."""
    if any(Every.ITEM in m.path or Every.KEY in m.path for m in (*values, *vectors)) and rate is None:
        return
    value = {"/".join(map(str, m.path)): path_text(m.path) for m in values}
    for vector in vectors:
        name = "/".join(str(step) for step in vector.path if step is not Every.ITEM)
        value |= {f"{name}/{i}": f"{path_text(vector.path)}[{i}]" for i in range(vector.shape.lengths[0])}
    every = [*values, *vectors]
    for names, comments in _name_choices(members, every, True):
        for time in _times(members, every, True):
            arguments = {"value": value, **names, **_time_fields(time, now, comments)}
            arguments |= {} if rate is None else {"sample_rate": path_text(rate.path)}
            comments["value"] = "is each item of an array a channel?"
            named = frozenset({*names, "channel"}) & {"site", "machine", "channel"}
            yield Plan(arguments, frozenset(named), dict(comments), remarks)


def _packed(
    members: Sequence[Member], packed: Sequence[Member], rate: Member, remarks: Sequence[str], now: float
) -> Iterator[Plan]:
    """Plans for samples that are packed in bytes, or in text that stands for bytes."""
    for plan in _read(members, packed[:1], rate, remarks, now):
        for binary in _binaries(packed[0]):
            yield Plan(
                {**plan.arguments, "binary": binary},
                plan.names,
                {**plan.comments, "binary": "which dtype, byte_order and scale? the payload does not say"},
                plan.remarks,
            )


def _binaries(packed: Member) -> Iterator[Binary]:
    """How numbers may be packed: floats where nearly all of them are of a size that sensors say, else integers."""
    text = next(iter(packed.shape.texts), None)
    encoding: Literal["none", "hex", "base64"] = "none"
    if text is not None:
        encoding = "base64" if set(text.lower()) - set(string.hexdigits) else "hex"
    floats: tuple[DType, ...] = ("float32", "float64")
    orders: tuple[ByteOrder, ...] = ("little", "big")
    for dtype, order in itertools.product(floats, orders):
        binary = Binary(encoding, dtype, order)
        with contextlib.suppress(CodecError):
            stored = packed.shape.blobs or packed.shape.texts
            blocks = [samples for value in stored for _, samples in binary.read(value, "")]
            numbers = np.abs(np.concatenate(blocks))
            if np.mean((numbers == 0) | ((numbers > 1e-6) & (numbers < 1e7))) > 0.9:
                yield binary
    integers: tuple[DType, ...] = ("int16", "int32", "int8")
    yield from (Binary(encoding, dtype) for dtype in integers)


def _reaches(member: Member, values: Sequence[Member]) -> bool:
    """Whether what a member says holds for all values: it stands in the same item, or around the items."""
    scope = member.scope
    return all(m.path[: len(scope)] == scope for m in values)


def _list_of(path: Path) -> Path:
    last = max((i for i, step in enumerate(path) if step is Every.ITEM), default=-1)
    return path[: last + 1]


def _common(paths: Sequence[Path]) -> Path:
    """The path to the innermost object that all paths go through."""
    first = paths[0][:-1]
    for path in paths[1:]:
        length = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, path[:-1], strict=False))
        )
        first = first[:length]
    return first


def _joined(prefix: str, rest: str) -> str:
    return f"{prefix}.{rest}" if prefix else rest


def path_text(path: Path, named: str = "*") -> str:
    """A path as the codecs' fields have it; the first step may be an array's, whose codec reads each item."""
    text = ""
    for step in path[1:] if path[:1] == (Every.ITEM,) else path:
        if step is Every.ITEM:
            text += "[*]"
        else:
            text = _joined(text, named if step is Every.KEY else _key(str(step)))
    return text


def _key(key: str) -> str:
    is_plain = not set(key) & set('.[]{}"*') and key.strip() == key and key
    return key if is_plain else f'"{key}"'
