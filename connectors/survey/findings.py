"""Findings: what a configuration reads of what was heard, group by group, and a whole section that reads more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.survey.groups import Group, grouped
from fml_lightning.connectors.survey.judgement import Judgement, judged
from fml_lightning.connectors.survey.proposal import MOST_TRIED, Proposal, proposed
from fml_lightning.connectors.survey.section import Entry
from fml_lightning.connectors.survey.survey import Survey

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
    """All groups, and the configuration that reads them."""

    groups: Sequence[Finding]
    entries: Sequence[Entry]
    """The topics of a whole configuration, in order: what is proposed, and what is configured."""

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
    today = [judged(topics, group.messages) for group in groups]
    ignored = [all(_is_ignored(topics, topic) for topic in group.topics) for group in groups]
    proposals = [
        None
        if skip or (own.is_whole and own.time_fault is None)
        else _better(group, own, topics, among, now, False)
        for group, own, skip in zip(groups, today, ignored, strict=True)
    ]
    configured = _configured(topics, groups, today)
    for _ in range(ROUNDS):
        thieves = _thieves(groups, proposals, configured)
        if not thieves:
            break
        for i in thieves:
            proposals[i] = _better(groups[i], today[i], topics, among, now, True)
    found = [
        Finding(group, own, skip, proposal)
        for group, own, skip, proposal in zip(groups, today, ignored, proposals, strict=True)
    ]
    return Findings(found, [*_ordered(proposals), *configured])


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


def _thieves(
    groups: Sequence[Group], proposals: Sequence[Proposal | None], configured: Sequence[Entry]
) -> set[int]:
    """Which proposals would read topics that another one, or the configuration, is to read."""
    thieves: set[int] = set()
    order = [entry.topic for entry in (*_ordered(proposals), *configured) if entry.is_active]
    order.sort(key=lambda topic: isinstance(topic, Topic))  # labels are tried first; the sort is stable
    for i, group in enumerate(groups):
        mine = proposals[i]
        for name in group.topics:
            first = next((topic for topic in order if topic.parsed.matches(name)), None)
            if first is None or (mine is not None and mine.entry.topic == first):
                continue
            thieves |= {
                j
                for j, other in enumerate(proposals)
                if other is not None and other.entry.topic == first and j != i
            }
    return thieves


def _is_ignored(topics: Topics, name: str) -> bool:
    every: list[Topic | LabelTopic] = [*topics.labels, *topics.readings]
    for topic in every:
        if topic.parsed.matches(name):
            return isinstance(topic, Topic) and topic.is_ignored
    return False
