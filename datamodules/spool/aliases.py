"""Aliases: names that machines had before they were renamed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl

from fml_lightning.errors import UserError


def resolve_aliases(aliases: Mapping[str, str], site: str, sites: Collection[str]) -> dict[str, str]:
    """Of each name that a site's machine had, the one that it has at last.

    >>> resolve_aliases({"pump": "p1", "north/p1": "P-101"}, "north", ["north", "south"])
    {'pump': 'P-101', 'p1': 'P-101'}
    >>> resolve_aliases({"pump": "p1", "north/p1": "P-101"}, "south", ["north", "south"])
    {'pump': 'p1'}

    Args:
        aliases: new names by old ones: MACHINE at every site, or SITE/MACHINE, which goes before MACHINE.
        site: the site's name.
        sites: the names of all sites.

    Raises:
        UserError: the names go round in a circle, or from one site to another.
    """
    everywhere, here = {}, {}
    for old, new in aliases.items():
        if not (isinstance(old, str) and isinstance(new, str) and old and new):
            raise UserError(f"aliases: expected new names of machines by old ones, got {old!r}: {new!r}")
        place = next((name for name in sites if old.startswith(f"{name}/")), None)
        to = next((name for name in sites if new.startswith(f"{name}/")), place)
        if to != place:
            raise UserError(
                f"aliases: {old!r}: {new!r} leads to the site {to}; expected a name within its own site, as in"
                " 'SITE/OLD': 'NEW'"
            )
        if place is None:
            everywhere[old] = new
        elif place == site:
            here[old.removeprefix(f"{site}/")] = new.removeprefix(f"{site}/")
    names = everywhere | here
    return {old: _last_name(old, names) for old in names}


def renamed(readings: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    """Readings under their machines' last names; if there are any, the column `source` has who sent each.

    Args:
        readings: of one site (`READINGS`).
        names: as `resolve_aliases` gives them.
    """
    if not names:
        return readings
    return readings.with_columns(pl.col("machine").replace(names), source="machine")


def _last_name(old: str, names: Mapping[str, str]) -> str:
    passed = [old]
    while passed[-1] in names:
        passed.append(names[passed[-1]])
        if passed[-1] in passed[:-1]:
            raise UserError(f"aliases: {' -> '.join(passed)} is a circle; expected names that end at a last one")
    return passed[-1]
