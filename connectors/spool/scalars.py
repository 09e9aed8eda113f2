"""The last scalars of one machine in a spool."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from fml_lightning.connectors.readings import READINGS
from fml_lightning.connectors.spool.source import SpoolSource
from fml_lightning.errors import UserError
from fml_lightning.names import shown

MOST_KEPT = 100_000
"""Scalars that are kept, those with the last times: what is read must fit into memory, however long a spool is."""
NEAR = 5
"""Names that an error tells, at most."""


def last_scalars(
    folder: str | Path, name: str, on_progress: Callable[[int], None] = lambda messages: None
) -> pl.DataFrame:
    """The scalars of a machine, `READINGS`, in order of time: all, or if there are very many, the last ones.

    Args:
        folder: the spool's.
        name: site and machine, with a slash between them; either may have slashes itself, so that in theory more
            than one machine is meant.
        on_progress: called now and then with how many messages were read so far.

    Raises:
        UserError: there is no such spool, it has no such machine, or this machine has no scalars.
    """
    machines: set[tuple[str, str]] = set()
    kept = READINGS.to_frame()
    messages = 0
    for frame, decoded in SpoolSource(folder).decoded():
        readings = decoded.batch.readings
        found = set(readings.select("site", "machine").unique().rows())
        machines |= found
        for site, machine in found:
            if f"{site}/{machine}" == name:
                its = readings.filter(site=site, machine=machine)
                kept = pl.concat([kept, its.filter(pl.col("sample_rate").is_null())])
        if len(kept) > 2 * MOST_KEPT:
            kept = _last(kept)
        messages += len(frame)
        on_progress(messages)
    names = [f"{site}/{machine}" for site, machine in sorted(machines)]
    if name not in names:
        raise UserError(f"spool {folder}: it has no machine {shown(name)!r}; {_instead(name, names)}")
    if not len(kept):
        raise UserError(f"spool {folder}: {shown(name)} has no scalars, only blocks, which are no rows")
    return _last(kept)


def _last(readings: pl.DataFrame) -> pl.DataFrame:
    """Those with the last times."""
    return readings.sort("time", maintain_order=True).tail(MOST_KEPT)


def _instead(name: str, names: Iterable[str]) -> str:
    """Which machines may be meant: those whose names are near, or a part of which the name is, or some."""
    names = list(dict.fromkeys(names))
    if not names:
        return "it has no readings yet"
    word = name.strip("/").casefold()
    near = [other for other in names if word and word in other.casefold()]
    near += [other for other in get_close_matches(name, names, NEAR, 0.6) if other not in near]
    told = ", ".join(shown(other) for other in (near or names)[:NEAR])
    if near:
        return f"near it: {told}"
    return f"it has {told}" + (f", and {len(names) - NEAR:,} more" if len(names) > NEAR else "")
