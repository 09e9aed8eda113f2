"""The proposal: from a group of topics and what was heard on them to a topic that reads them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fml_lightning.connectors.codecs import (
    CBOR,
    Codec,
    FirstOf,
    JSONBatch,
    JSONObject,
    JSONScalar,
    MessagePack,
    RawSamples,
    SenML,
    SparkplugB,
    StatefulCodec,
    WaveformBlock,
)
from fml_lightning.connectors.codecs.unwrap import Wrapper
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.survey.formats import Format, Parsed
from fml_lightning.connectors.survey.groups import Group
from fml_lightning.connectors.survey.influx_tags import influx_line
from fml_lightning.connectors.survey.judgement import Judgement, judged
from fml_lightning.connectors.survey.levels import Naming, has_room, naming
from fml_lightning.connectors.survey.plan import common_sign, path_text, plans, time_zone
from fml_lightning.connectors.survey.roles import (
    EVENT,
    LONGEST_WORD,
    MOST_WORDS,
    SAYS_LABEL,
    Member,
    member_of,
)
from fml_lightning.connectors.survey.section import Entry
from fml_lightning.connectors.survey.shape import Every, places, plain, shape_of
from fml_lightning.connectors.survey.states import state_numbers
from fml_lightning.errors import UserError

MOST_PLANS = 60
"""Ways to read a group that are tried."""
MOST_TRIED = 100
"""Messages of a group on which each of them is tried."""
MOST_REMARKS = 12
"""Lines of comment about what is not read of a group."""
_STATE = re.compile(rf"[^\W\d][\w .:+/-]{{0,{LONGEST_WORD - 1}}}")
"""A word, or a few, that may be a state."""
_MAPS: Mapping[Format, type[JSONObject] | type[CBOR] | type[MessagePack]] = {
    "json": JSONObject,
    "cbor": CBOR,
    "msgpack": MessagePack,
}


@dataclass(frozen=True)
class Proposal:
    """How a group of topics could be read."""

    entry: Entry
    judgement: Judgement | None
    """What it reads of the group; None where a person must say something first."""


@dataclass(frozen=True)
class _Reading:
    """One codec for a group, and what it needs."""

    codec: Codec | StatefulCodec
    names: frozenset[str]
    comments: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    missing: str = ""
    is_number: bool = False
    """Whether what names the machine is a number, which may count anything."""
    is_channel_said: bool = False
    """Whether a text of the payload, not a key, names the channel."""
    label: Mapping[str, Any] | None = None
    """Fields of a `LabelTopic`, where the payloads say states of machines and nothing is measured."""


def proposed(group: Group, among: Sequence[str], now: float, pinned: bool = False) -> Proposal | None:
    """The way to read a group that reads most of it; None if nothing is known that reads any of it.

    Args:
        group: the topics, and what was heard.
        among: all topics that were heard.
        now: seconds since 1970, UTC: when they were heard.
        pinned: whether other topics must not match, though they look alike.
    """
    best: tuple[tuple[float, ...], Proposal] | None = None
    unusable: Proposal | None = None
    messages = group.messages[:MOST_TRIED]
    wrappers = Counter(one.wrappers for one in group.parsed).most_common(1)[0][0]
    for reading in itertools.islice(_readings(group, now), MOST_PLANS):
        named = _naming(group, reading, among, pinned)
        topic = _topic(reading, named, wrappers)
        comments = {**named.comments, **reading.comments}
        entry = Entry(topic, _head(group, reading), comments, not reading.missing)
        if reading.missing:
            unusable = unusable or Proposal(entry, None)
            continue
        judgement = judged(alone(topic), messages)
        if not judgement.read:
            continue
        score = (*judgement.score[:2], _fitness(reading, judgement), *judgement.score[2:])
        if best is None or score > best[0]:
            best = score, Proposal(entry, judgement)
    return best[1] if best else unusable


def _readings(group: Group, now: float) -> Iterator[_Reading]:
    """Codecs that may read a group, the most likely ones first."""
    kinds = Counter((one.format, isinstance(one.document, list)) for one in group.parsed)
    others = {kind: count for kind, count in kinds.items() if kind[0] != "text"}
    kinds = Counter(others or kinds)  # a word between numbers or documents, such as an error, is no value
    ways = [
        list(itertools.islice(_of_kind(group, form, is_list, now), MOST_PLANS))
        for (form, is_list), _ in kinds.most_common()
    ]
    if len(ways) == 1:
        yield from ways[0]
        return
    usable = [[r for r in way if not r.missing and r.label is None and isinstance(r.codec, Codec)] for way in ways]
    usable = [way for way in usable if way]
    if len(usable) > 1:
        # Each format is best read as if it were alone: the first way of each that reads something, together.
        chosen = [_first_that_reads(way, group) for way in usable]
        codecs = tuple(r.codec for r in chosen if isinstance(r.codec, Codec))
        yield _Reading(
            FirstOf(codecs),
            frozenset.intersection(*(r.names for r in chosen)),
            {key: text for r in chosen for key, text in r.comments.items()},
            ["payloads of several formats came on one topic", *(line for r in chosen for line in r.remarks)],
        )
    for way in ways:
        yield from way


def _first_that_reads(ways: Sequence[_Reading], group: Group) -> _Reading:
    def score(reading: _Reading) -> tuple[float, ...]:
        named = _naming(group, reading, group.topics, False)
        return judged(alone(_topic(reading, named, ())), group.messages[:MOST_TRIED]).score

    return max(ways[:10], key=score)


def _of_kind(group: Group, form: Format, is_list: bool, now: float) -> Iterator[_Reading]:
    """Codecs for the payloads of one format."""
    mine = [one for one in group.parsed if one.format == form and isinstance(one.document, list) == is_list]
    match form:
        case "number":
            yield _Reading(JSONScalar(), frozenset())
        case "text":
            yield from _of_texts(group, mine)
        case "waveform":
            yield _Reading(WaveformBlock(), frozenset())
        case "sparkplug":
            yield _Reading(SparkplugB(), frozenset({"site", "machine", "channel"}))
        case "influx":
            codec, names, comments = influx_line([m.payload for m in group.messages], now)
            yield _Reading(codec, names, comments)
        case "senml" | "senml_cbor":
            yield from _of_senml(mine)
        case "binary":
            yield _Reading(
                RawSamples(sample_rate=1.0),
                frozenset(),
                {"sample_rate": "Hz: which?", "dtype": "which?"},
                missing="sample rate and dtype (and the names of interleaved channels, if there are several)",
            )
        case "json" | "cbor" | "msgpack":
            yield from _of_documents(mine, form, is_list, now)


def _of_documents(mine: Sequence[Parsed], form: Format, is_list: bool, now: float) -> Iterator[_Reading]:
    """Map codecs for objects, or arrays of objects."""
    shape = shape_of([one.document for one in mine])
    members = [member_of(path, at, now) for path, at in places(shape)]
    yield from _events(members, now)
    kind: Any = JSONBatch if form == "json" and is_list else _MAPS[form]
    for plan in plans(members, now):
        try:
            codec = kind(**plan.arguments)
        except UserError:
            continue  # paths that the codec does not take together
        is_said = {"channel", "name"} & set(plan.arguments) != set()
        yield _Reading(codec, plan.names, plan.comments, plan.remarks, plan.missing, plan.is_number, is_said)


def _events(members: Sequence[Member], now: float) -> Iterator[_Reading]:
    """Labels, where documents say the state of a machine and measure nothing."""
    if any(Every.ITEM in m.path or Every.KEY in m.path for m in members):
        return
    said = [m for m in members if m.role == "state" and m.key in EVENT]
    said += [m for m in members if m.role in ("value", "name") and m.key in SAYS_LABEL]
    said.sort(key=lambda m: m.key not in SAYS_LABEL)
    measured = [m for m in members if m.role in ("value", "samples", "packed") and m not in said]
    if not said or measured:
        return
    label: dict[str, Any] = {"label_key": path_text(said[0].path)}
    comments: dict[str, str] = {}
    time = next(iter(sorted((m for m in members if m.role == "time"), key=lambda m: len(m.path))), None)
    label["time_key"] = None if time is None else path_text(time.path)
    if time is not None:
        label["time_unit"] = time.time_unit
        if time.is_local:
            label["time_zone"] = time_zone(time, now)
            comments["time_zone"] = "which? the device says no offset from UTC"
    names = {"channel"}
    machines = sorted((m for m in members if m.role == "name" and m not in said), key=lambda m: m.rank)
    if machines:
        label["machine_key"] = path_text(machines[0].path)
        names.add("machine")
    site = next((m for m in members if m.role == "site"), None)
    if site is not None:
        label["site_key"] = path_text(site.path)
        names.add("site")
    words = ", ".join(dict.fromkeys(said[0].shape.texts[:8]))
    comments["label_key"] = f"it said {words}" if words else ""
    yield _Reading(JSONScalar(), frozenset(names), comments, label=label)


def _of_texts(group: Group, mine: Sequence[Parsed]) -> Iterator[_Reading]:
    """Bare words: labels on a topic that is named so, else states with a number each."""
    words = list(dict.fromkeys(text for one in mine if (text := _word(one.document))))
    if not words or len(words) > MOST_WORDS or not all(map(_STATE.fullmatch, words)):
        return
    ends = {plain(topic.rpartition("/")[2]).removesuffix("s") for topic in group.topics}
    if ends <= EVENT:
        label: dict[str, Any] = {"label_key": None, "time_key": None}
        yield _Reading(
            JSONScalar(), frozenset({"channel"}), {"label_key": f"it said {', '.join(words)}"}, label=label
        )
    numbers = state_numbers(words)
    yield _Reading(JSONScalar(states=numbers), frozenset(), {"states": "which number is which state?"})


def _word(document: object) -> str:
    if isinstance(document, bool):
        return "true" if document else "false"
    return document.strip() if isinstance(document, str) else ""


def _of_senml(mine: Sequence[Parsed]) -> Iterator[_Reading]:
    """SenML, whose names may be those of a machine and its channel."""
    names: set[str] = set()
    for one in mine:
        base = ""
        for record in one.document:
            base = record.get("bn", record.get(-2, base))
            names.add(f"{base}{record.get('n', record.get(0, ''))}")
    if sign := common_sign(sorted(names)):
        yield _Reading(
            SenML(f"{{machine}}{sign}{{channel}}"),
            frozenset({"machine", "channel"}),
            {"pattern": "is it the machine that comes first?"},
        )
    yield _Reading(SenML(), frozenset({"channel"}))


def _topic(reading: _Reading, named: Naming, wrappers: tuple[Wrapper, ...]) -> Topic | LabelTopic:
    fixed: dict[str, Any] = {**named.fixed}
    if reading.label is not None:
        fixed.pop("channel", None)
        return LabelTopic(named.template, unwrap=wrappers, **fixed, **reading.label)
    return Topic(named.template, reading.codec, unwrap=wrappers, **fixed)


def _naming(group: Group, reading: _Reading, among: Sequence[str], pinned: bool) -> Naming:
    if isinstance(reading.codec, SparkplugB):
        return Naming("spBv1.0/#", {})  # the codec reads its topics itself
    return naming(group.topics, reading.names, among, _texts(group), pinned)


def alone(topic: Topic | LabelTopic) -> Topics:
    """A configuration of one topic."""
    return Topics((topic,)) if isinstance(topic, Topic) else Topics((), (topic,))


def _fitness(reading: _Reading, judgement: Judgement) -> float:
    """How well machines and channels are named: by the payload where a topic carries several, else by the topic.

    A topic's levels are there for whoever subscribes; what a payload calls an id may be anything.
    """
    return sum(_fit(reading, judgement, place) for place in ("machine", "channel"))


def _fit(reading: _Reading, judgement: Judgement, place: str) -> float:
    if reading.label is not None:
        return 1.0  # they are tried where nothing is measured
    if place not in reading.names or (place == "channel" and not reading.is_channel_said):
        return 0.5
    by_topic: dict[str, set[str]] = {}
    for at, name in judgement.readings.select("sequence", place).unique().iter_rows():
        by_topic.setdefault(judgement.messages[at].topic, set()).add(name)
    if max(map(len, by_topic.values())) > 1:
        return 1.0
    topic, names = next(iter(by_topic.items()))
    if len(by_topic) > 1 or names <= set(topic.split("/")):
        return 0.0
    is_weak = reading.is_number if place == "machine" else True
    return 0.0 if is_weak and has_room(topic) else 1.0


def _texts(group: Group) -> frozenset[str]:
    """Short texts of documents: a level of the topic that is one of them is a name."""
    found: set[str] = set()

    def look(document: object, depth: int = 0) -> None:
        if isinstance(document, str) and 0 < len(document) <= LONGEST_WORD and len(found) < 1000:
            found.add(document)
        elif isinstance(document, Mapping) and depth < 4:
            for one in document.values():
                look(one, depth + 1)
        elif isinstance(document, list) and depth < 4:
            for one in document[:20]:
                look(one, depth + 1)

    for one in group.parsed[:50]:
        if one.format in _MAPS:
            look(one.document)
    return frozenset(found)


def _head(group: Group, reading: _Reading) -> list[str]:
    lines = [f"{group.pattern}: {group.count:,} message{'s' * (group.count != 1)}"]
    if reading.missing:
        lines.append(f"say first: {reading.missing}")
    return [*lines, *reading.remarks[:MOST_REMARKS]]
