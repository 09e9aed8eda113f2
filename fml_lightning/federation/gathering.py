"""What features are standardized by: the statistics of sums that sites tell once in a run, before all else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from fml_lightning.executors.work import SiteFailure, SiteUpdate
from fml_lightning.federation.batch import Sites, weight_of
from fml_lightning.names import shown
from fml_lightning.preprocessing.statistics import Statistics, Sums

Answers = tuple[list[SiteUpdate], list[SiteFailure]]


@runtime_checkable
class Standardized(Protocol):
    """A data module of all sites that can be standardized by given statistics, as a `Fleet` can."""

    def standardize_by(self, statistics: Statistics) -> bool:
        """Use the statistics of a run; whether they are of use here."""
        ...


def gather(ask: Callable[[Sites, int], Answers], sites: Sites, quorum: int, tries: int) -> Answers:
    """Ask sites for their sums, all at once; whoever has answered is not asked again.

    The first answer tells whether any sums are needed. Only if they are, all sites are waited for; and while fewer
    than `quorum` have told theirs, those that failed are asked again, unless they would fail again or are late.

    Args:
        ask: asks some sites, and waits until so many have answered, or for as long as a round waits.
        sites: to be asked.
        quorum: fewest sites that must tell sums, where any are needed.
        tries: how often all are asked that have not answered.
    """
    heard: dict[str, SiteUpdate] = {}
    failed: dict[str, SiteFailure] = {}

    def hear(names: Sequence[str], enough: int) -> None:
        updates, failures = ask({name: sites[name] for name in names}, enough)
        for name in names:
            failed.pop(name, None)
        heard.update({update.site: update for update in updates})
        failed.update({failure.site: failure for failure in failures})

    def left() -> list[str]:
        refusing = {name for name, failure in failed.items() if failure.permanent}
        return [name for name in sites if name not in heard and name not in refusing]

    for _ in range(tries):
        hear(left(), 1)
        if left() and with_sums(heard.values()):
            hear(left(), len(left()))
        told = len(with_sums(heard.values()))
        is_late = any(failure.not_yet for failure in failed.values())
        if not left() or is_late or told >= quorum or (heard and not told):
            break
    return list(heard.values()), list(failed.values())


def with_sums(updates: Iterable[SiteUpdate]) -> list[SiteUpdate]:
    """The answers with sums in them."""
    return [update for update in updates if update.sums is not None]


def statistics_of(updates: Sequence[SiteUpdate], sites: Sites) -> tuple[Statistics, list[str], list[SiteFailure]]:
    """The statistics of the sites' sums, whose these are, and the sites whose sums do not fit the others'.

    Those fit that have as many columns, and cells as wide, as most have.

    Args:
        updates: what sites answered; at least one of them has sums.
        sites: which say how much each of their rows counts.

    Raises:
        UserError: there are no rows, or too many cells.
    """
    updates = sorted(updates, key=lambda update: update.site)
    told = {update.site: update.sums for update in updates if update.sums is not None}
    kinds = {site: (sums.columns, sums.width) for site, sums in told.items() if sums.cells}
    (usual, _), *_ = Counter(kinds.values() or [(0, 1.0)]).most_common(1)
    first = next((site for site, kind in kinds.items() if kind == usual), "")
    failures = []
    for update in updates:
        expected = f"sums of {usual[0]} columns in cells of width {usual[1]:g}, as {shown(first)} has"
        if update.sums is None:
            got = "none, as it gives statistics of its own or standardizes nothing"
        elif kinds.get(update.site, usual) != usual:
            got = f"those of {update.sums.columns} columns in cells of width {update.sums.width:g}"
        else:
            continue
        told.pop(update.site, None)
        reason = f"expected {expected}, got {got}; configure the data of all sites alike"
        failures.append(SiteFailure(update.site, update.round, reason, permanent=True))
    weighted = {site: sums.weighted(weight_of(site, sites[site])) for site, sums in told.items()}
    return Sums.of_sites(weighted).statistics(), list(told), failures
