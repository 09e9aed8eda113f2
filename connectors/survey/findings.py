"""Findings: what a configuration reads of what was heard, group by group, and a whole section that reads more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fml_lightning.connectors.codecs import Codec, FirstOf, JSONScalar
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.survey.groups import Group, grouped
from fml_lightning.connectors.survey.judgement import Judgement, judged
from fml_lightning.connectors.survey.proposal import MOST_TRIED, Proposal, alone, proposed
from fml_lightning.connectors.survey.section import Entry
from fml_lightning.connectors.survey.survey import Survey

MOST_GROUPS = 200
"""Groups that are looked into: each takes a part of a second."""
ROUNDS = 3
"""Times that proposals are looked at again, as one of them reads what another should."""


@dataclass(frozen=True)
class Finding:
    """One group of topics."""

    group: Group
    today: Judgement
    """What the configuration reads of it."""
    is_ignored: bool
    """Whether the configuration says that nothing is to be read of it."""
    proposal: Proposal | None
    """What would read more of it; None where nothing does, or nothing is needed."""


@dataclass(frozen=True)
class Findings:
    """The groups, and the configuration that reads them."""

    groups: Sequence[Finding]
    entries: Sequence[Entry]
    """The topics of a whole configuration, in order: what is proposed, and what is configured."""
    beyond: int = 0
    """Further groups, which were not looked into."""

    @property
    def topics(self) -> Topics | None:
        """The topics that can be used as they are; None where there is none."""
        active = [entry.topic for entry in self.entries if entry.is_active]
        readings = tuple(topic for topic in active if isinstance(topic, Topic))
        labels = tuple(topic for topic in active if isinstance(topic, LabelTopic))
        return Topics(readings, labels) if labels or any(not topic.is_ignored for topic in readings) else None


def findings(survey: Survey, topics: Topics, now: float) -> Findings:
    """What is read today, and what could be.

    Args:
        survey: what was heard.
        topics: the configuration of today.
        now: seconds since 1970, UTC: when it was heard.
    """
    heard = [one for one in survey.topics.values() if one.messages]
    among = [one.topic for one in heard]
    groups = grouped(heard)
    beyond = len(groups) - MOST_GROUPS
    if beyond > 0:  # what the configuration is to read comes last, so that the next check gets further
        groups = sorted(groups, key=lambda group: _first(topics, group.topics[0]) is not None)[:MOST_GROUPS]
    today = [judged(topics, group.messages) for group in groups]
    ignored = [all(_is_ignored(topics, topic) for topic in group.topics) for group in groups]
    proposals = [
        None
        if skip or (own.is_whole and own.time_fault is None)
        else _better(group, own, topics, among, now, False)
        for group, own, skip in zip(groups, today, ignored, strict=True)
    ]
    configured = _configured(topics, groups, today)
    for n in range(ROUNDS):
        conflicts = _conflicts(groups, proposals, configured)
        # A template that names fewer levels may be all that is needed; else the one that is robbed is written out.
        for i in {thief for thief, _ in conflicts} | ({robbed for _, robbed in conflicts} if n else set()):
            proposals[i] = _better(groups[i], today[i], topics, among, now, True)
    _join_alike(groups, proposals)
    found = [
        Finding(group, own, skip, proposal)
        for group, own, skip, proposal in zip(groups, today, ignored, proposals, strict=True)
    ]
    return Findings(found, [*_ordered(proposals), *configured], max(beyond, 0))


def _better(
    group: Group, today: Judgement, topics: Topics, among: Sequence[str], now: float, pinned: bool
) -> Proposal | None:
    """A proposal that reads more of a group than is read today."""
    proposal = proposed(group, among, now, pinned)
    if proposal is None or proposal.judgement is None:
        return proposal if not today.read else None
    own = today if len(group.messages) <= MOST_TRIED else judged(topics, group.messages[:MOST_TRIED])
    return proposal if proposal.judgement.score > own.score else None


def _configured(topics: Topics, groups: Sequence[Group], today: Sequence[Judgement]) -> list[Entry]:
    """What is configured; the default, which nobody has written, only if it reads something."""
    is_default = topics == Topics()
    if is_default and not any(judgement.read for judgement in today):
        return []
    every: list[Topic | LabelTopic] = [*topics.labels, *topics.readings]
    return [Entry(topic) for topic in every]


def _ordered(proposals: Sequence[Proposal | None]) -> list[Entry]:
    """The entries of proposals, each once: labels first, and of templates the ones with most words first."""
    entries: list[Entry] = []
    for proposal in proposals:
        if proposal is not None and all(proposal.entry.topic != entry.topic for entry in entries):
            entries.append(proposal.entry)
    return sorted(entries, key=lambda entry: (isinstance(entry.topic, Topic), -_words(entry.topic.template)))


def _words(template: str) -> int:
    """Levels of a template that are words alone; one with `#` comes last."""
    return sum(not re.search(r"[{+#]", level) for level in template.split("/")) - 100 * ("#" in template)


def _conflicts(
    groups: Sequence[Group], proposals: Sequence[Proposal | None], configured: Sequence[Entry]
) -> set[tuple[int, int]]:
    """Which proposals would read topics that another one, or the configuration, is to read: thief and robbed."""
    conflicts: set[tuple[int, int]] = set()
    order = [entry.topic for entry in (*_ordered(proposals), *configured) if entry.is_active]
    order.sort(key=lambda topic: isinstance(topic, Topic))  # labels are tried first; the sort is stable
    for i, group in enumerate(groups):
        mine = proposals[i]
        for name in group.topics:
            first = next((topic for topic in order if topic.parsed.matches(name)), None)
            if first is None or (mine is not None and mine.entry.topic == first):
                continue
            thieves = {j for j, other in enumerate(proposals) if other is not None and other.entry.topic == first}
            conflicts |= {(j, i if mine is not None and mine.entry.is_active else j) for j in thieves}
    return conflicts


def _join_alike(groups: Sequence[Group], proposals: list[Proposal | None]) -> None:
    """Let one topic read what several would that match the same: only the first of them would be asked."""
    for i in range(len(groups)):
        for j in range(i):
            mine, other = proposals[i], proposals[j]
            if mine is None or other is None or mine.entry.topic.template != other.entry.topic.template:
                continue
            if mine.entry.topic == other.entry.topic:
                continue
            both = [e for pair in ((other, mine), (mine, other)) if (e := _joint(*(one.entry for one in pair)))]
            if both:
                own = (mine.entry.topic, other.entry.topic)
                at = [k for k, one in enumerate(proposals) if one is not None and one.entry.topic in own]
                tried = [[judged(alone(e.topic), groups[k].messages[:MOST_TRIED]) for k in at] for e in both]
                best = max(
                    range(len(both)),
                    key=lambda n: [sum(s) for s in zip(*(j.score for j in tried[n]), strict=True)],
                )
                for k, judgement in zip(at, tried[best], strict=True):
                    proposals[k] = Proposal(both[best], judgement)


def _joint(one: Entry, other: Entry) -> Entry | None:
    """One entry that reads with the codec of the first and then with that of the other; None if more differs."""
    if not (isinstance(one.topic, Topic) and isinstance(other.topic, Topic) and one.is_active and other.is_active):
        return None
    mine, theirs = one.topic.codec, other.topic.codec
    if replace(one.topic, codec=theirs) != other.topic or not (
        isinstance(mine, Codec) and isinstance(theirs, Codec)
    ):
        return None
    if isinstance(mine, JSONScalar) and isinstance(theirs, JSONScalar):
        codec: Codec = JSONScalar(states={**mine.states, **theirs.states})
    else:
        each = [c for codec in (mine, theirs) for c in (codec.codecs if isinstance(codec, FirstOf) else (codec,))]
        codec = FirstOf(tuple(dict.fromkeys(each)))
    return Entry(replace(one.topic, codec=codec), [*one.head, *other.head], {**one.comments, **other.comments})


def _is_ignored(topics: Topics, name: str) -> bool:
    first = _first(topics, name)
    return isinstance(first, Topic) and first.is_ignored


def _first(topics: Topics, name: str) -> Topic | LabelTopic | None:
    """The topic of a configuration that reads messages of this name."""
    every: list[Topic | LabelTopic] = [*topics.labels, *topics.readings]
    return next((topic for topic in every if topic.parsed.matches(name)), None)
