"""The table: machines in a terminal, worst first, written over in place; elsewhere a line for every change."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from fml_lightning.live.alarm_state import AlarmState, is_raised
from fml_lightning.live.board import Board, MachineView
from fml_lightning.live.duration import words
from fml_lightning.names import columns, escaped, shown

INTERVAL = 1.0
"""Seconds between two looks at the table."""
TREND = 12
"""Characters of a trend."""
LEAST = 24
"""Characters of a reason below which other columns are left out."""
BARS = "▁▂▃▄▅▆▇█"
COLOURS = {"FAILURE": 31, "MAINTENANCE_REQUIRED": 33, "OFF_SPEC": 35, "CHECK_FUNCTION": 36, "NORMAL": 32}
"""Of the words, as SGR has them (ECMA-48); the words say the same."""
HEAD = ("machine", "health", "since", "why", "trend", "last data", "model")
NARROWER = (
    HEAD,
    ("machine", "health", "since", "why", "last data", "model"),
    ("machine", "health", "why", "model"),
)
"""The columns, of which fewer are shown where there is little room."""


class Table:
    """Shows views on stdout; on a terminal the table is written over, elsewhere what changes is a line.

    Use it as a context; its last state is left standing.

    Args:
        only_end: whether nothing but the last state is printed, where stdout is no terminal.
    """

    def __init__(self, only_end: bool = False) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._only_end = only_end
        self._next = 0.0
        self._height = 0
        self._revision = -1
        self._last: dict[tuple[str, str], tuple[str, AlarmState | None, str, bool, bool]] = {}
        self._shown: tuple[Board, Sequence[str]] | None = None

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown is None:
            return
        board, notes = self._shown
        if self._only_end and not self._is_terminal:
            print("\n".join(rows(board.views(), notes, sys.maxsize, sys.maxsize, time.time(), is_coloured=False)))
            return
        self._next = 0.0  # what has changed since it was drawn is drawn
        self.show(board, notes)

    def show(self, board: Board, notes: Sequence[str]) -> None:
        """Show a board's machines, if it is time to.

        Args:
            board: what is shown.
            notes: what else is to be known, such as that the disk is full; a line each.
        """
        self._shown = board, notes
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL
        if not self._is_terminal:
            if not self._only_end and (revision := board.wait(-1, 0.0)) != self._revision:
                self._revision = revision
                self._tell_changes(board.views())
        else:
            size = shutil.get_terminal_size()
            text = rows(board.views(), notes, size.columns, size.lines - 2, time.time())
            up = f"\x1b[{self._height}F" if self._height else ""
            sys.stdout.write(up + "".join(f"\x1b[2K{line}\n" for line in text) + "\x1b[J")
            sys.stdout.flush()
            self._height = len(text)

    def _tell_changes(self, views: Sequence[MachineView]) -> None:
        there = {(view.site, view.machine) for view in views}
        self._last = {key: told for key, told in self._last.items() if key in there}
        for view in views:
            key = (view.site, view.machine)
            now = (
                view.health,
                view.alarm if is_raised(view.alarm) else None,
                view.version,
                view.acknowledged,
                view.stale,
            )
            if self._last.get(key) != now:
                self._last[key] = now
                at = time.strftime("%Y-%m-%d %H:%M:%S")
                why = f": {view.reason}" if view.reason else ""
                model = f" ({view.version})" if view.version else ""
                known = ", acknowledged" if view.is_acknowledged else ""
                print(f"{at} {_name(view)} {view.health}{known}{escaped(why)}{model}", flush=True)


def rows(
    views: Sequence[MachineView],
    notes: Sequence[str],
    width: int,
    height: int,
    now: float,
    *,
    is_coloured: bool = True,
) -> list[str]:
    """The lines of the table, each of which fits a terminal.

    Args:
        views: worst first.
        notes: lines below the table.
        width: columns of the terminal.
        height: lines of the terminal.
        now: seconds since 1970.
        is_coloured: whether words have colours.
    """
    cells = [_cells(view, now) for view in views]
    left = max(0, len(cells) - max(1, height - 1 - len(notes)))
    if left:
        cells = cells[: len(cells) - left - 1]
        notes = [f"and {left + 1} more machines", *notes]
    for kept in NARROWER:
        places = [HEAD.index(name) for name in kept]
        table = [[row[i] for i in places] for row in [HEAD, *cells]]
        wide = [max(columns(row[i]) for row in table) for i in range(len(kept))]
        why = places.index(HEAD.index("why"))
        needed, room = wide[why], width - 1 - sum(wide) + wide[why] - 2 * (len(kept) - 1)
        wide[why] = max(len("why"), min(needed, room))
        if room >= min(needed, LEAST):
            break
    lines = []
    for place, row in enumerate(table):
        text = _fitted("  ".join(_padded(cell, wide[i]) for i, cell in enumerate(row)).rstrip(), width - 1)
        colour = COLOURS.get(row[1]) if place and is_coloured else None
        lines.append(text.replace(row[1], f"\x1b[{colour}m{row[1]}\x1b[0m", 1) if colour else text)
    return [*lines, *(_fitted(escaped(note), width - 1) for note in notes)]


def trend(points: Sequence[tuple[int, float]]) -> str:
    """Means of a trend as bars.

    >>> trend([(0, 0.0), (1, 0.5), (2, 1.0)])
    '▁▅█'
    """
    newest = [value for _, value in points[-TREND:]]
    return "".join(BARS[min(len(BARS) - 1, max(0, round(value * (len(BARS) - 1) + 0.01)))] for value in newest)


def _cells(view: MachineView, now: float) -> tuple[str, ...]:
    why = escaped(view.reason)
    if view.confidence is not None and view.fault and view.reason.startswith(view.fault):
        fault = escaped(view.fault)
        why = f"{fault} ({view.confidence:.0%}){why[len(fault) :]}"
    if view.is_acknowledged:
        why = f"{why}, acknowledged"
    why = "; ".join(part for part in (escaped(view.estimated), why) if part)
    return (
        _name(view),
        view.health,
        _clock(view.since),
        why,
        trend(view.trend),
        _last_data(view, now),
        view.version or "none",
    )


def _last_data(view: MachineView, now: float) -> str:
    if view.last_data is None:
        return "never" if view.version else "not scored"
    return f"{words(max(0.0, now - view.last_data / 1e6))} ago"


def _name(view: MachineView) -> str:
    return f"{shown(view.site)}/{shown(view.machine)}"


def _clock(time: int | None) -> str:
    if time is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(time / 1e6, UTC).astimezone():%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return "?"


def _padded(text: str, width: int) -> str:
    text = _fitted(text, width)
    return text + " " * (width - columns(text))


def _fitted(text: str, width: int) -> str:
    while columns(text) > width:
        text = f"{text[:-2]}…" if len(text) > 1 else ""
    return text
