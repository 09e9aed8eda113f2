"""What browsers are sent of the board, as JSON: tiles of the overview, and one machine's own view."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import msgspec

from fml_lightning.live.board import Board, MachineDetail, MachineView

SPARKS = 60
"""Points of a tile's trend at most."""
GAP = 4.0
"""A trend is broken where a step is longer than so many usual ones: there were no data."""
PACE = 0.01
"""Seconds per machine between two tellings of figures that are not words, so that 1,000 machines cost 10 s."""


@dataclass(frozen=True, eq=False)
class Tile:
    """One machine of the overview."""

    number: int
    """Names the machine between server and browser, for as long as the server runs."""
    view: MachineView
    words: MachineView
    """The view without what moves all the time."""

    @cached_property
    def text(self) -> bytes:
        """As JSON; made when the first browser needs it."""
        return msgspec.json.encode(contents(self.view, self.number))


def sparks(trend: Sequence[tuple[int, float]], count: int = SPARKS) -> list[tuple[int, int] | None]:
    """Points of a small picture of a trend: its span is 0 to 1,000, scores are per cent, None breaks the line.

    Of several scores in a row the highest stays: that is what one looks for.

    >>> sparks([(0, 0.1), (10, 0.2), (20, 0.9), (100, 0.5)])
    [(0, 10), (100, 20), (200, 90), None, (1000, 50)]
    >>> sparks([(0, 0.1), (10, 0.8), (20, 0.3), (30, 0.2)], count=2)
    [(333, 80), (667, 30)]
    """
    finite = [(at, score) for at, score in trend if math.isfinite(score)]
    size = -(-len(finite) // count) or 1
    kept = [max(finite[i : i + size], key=lambda point: point[1]) for i in range(0, len(finite), size)]
    if len(kept) < 2:
        return [(1000, _per_cent(score)) for _, score in kept]
    start, span = finite[0][0], max(finite[-1][0] - finite[0][0], 1)
    usual = median(later - earlier for (earlier, _), (later, _) in itertools.pairwise(kept))
    points: list[tuple[int, int] | None] = []
    for i, (at, score) in enumerate(kept):
        if i and at - kept[i - 1][0] > GAP * usual:
            points.append(None)
        points.append((round(1000 * (at - start) / span), _per_cent(score)))
    return points


def _per_cent(score: float) -> int:
    return round(100 * min(max(score, 0.0), 1.0))


def contents(view: MachineView, number: int) -> dict[str, Any]:
    """What a tile shows."""
    told = {name: getattr(view, name) for name in view.__struct_fields__ if name not in ("trend", "score")}
    span = (view.trend[0][0], view.trend[-1][0]) if view.trend else None
    score = None if view.score is None else round(view.score, 3)
    return {"id": number, **told, "score": score, "span": span, "trend": sparks(view.trend)}


def detail(shown: MachineDetail, levels: Sequence[float | None]) -> bytes:
    """One machine's own view: its tile, and columns as uPlot takes them (s, Hz, dB)."""
    count = min(len(shown.frequencies), len(shown.spectrum))
    baseline = shown.baseline[:count] if len(shown.baseline) >= count else ()
    return msgspec.json.encode(
        {
            "tile": contents(shown.view, 0),
            "levels": levels,
            "scores": [[at / 1e6 for at, _ in shown.scores], [round(score, 4) for _, score in shown.scores]],
            "spectrum": [
                [round(f, 3) for f in shown.frequencies[:count]],
                [round(level, 2) for level in shown.spectrum[:count]],
                [round(level, 2) for level in baseline] or [None] * count,
            ],
            "baseline": bool(baseline),
            "fault_lines": shown.fault_lines,
            "alarms": shown.alarms,
        }
    )


class Tiles:
    """The board's tiles, made once for all browsers. Safe in any thread."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._tiles: dict[tuple[str, str], Tile] = {}
        self._revision: int | None = None

    def newest(self, revision: int) -> dict[int, Tile]:
        """Tiles by their numbers, worst first, at least as new as the revision."""
        with self._lock:
            if self._revision != revision:
                views = self._board.views()
                self._tiles = {(view.site, view.machine): self._tile(view) for view in views}
                self._revision = revision
            return {tile.number: tile for tile in self._tiles.values()}

    def _tile(self, view: MachineView) -> Tile:
        old = self._tiles.get((view.site, view.machine))
        if old is not None and old.view == view:
            return old
        number = next(self._numbers) if old is None else old.number
        words = msgspec.structs.replace(view, score=None, trend=(), confidence=None, last_data=None, estimate=None)
        return Tile(number, view, words)


def changed(new: Mapping[int, Tile], shown: Mapping[int, Tile], figures: bool) -> list[Tile]:
    """Tiles to draw anew: those whose words differ, and with `figures` those that differ at all."""
    return [
        tile
        for number, tile in new.items()
        if (old := shown.get(number)) is not tile and (figures or old is None or old.words != tile.words)
    ]


def stream(tiles: Tiles, board: Board, first: Mapping[str, Any], stop: threading.Event) -> Iterator[bytes]:
    """Server-sent events for one browser: all tiles first, then those that change, problems, and a sign of life.

    Nothing waits in a queue: whoever is slow gets the newest state when ready for it. So a slow browser costs
    the memory of one message, and shows no past.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    revision = board.wait(-1, 0.0)
    shown: dict[int, Tile] = {}
    order: list[int] | None = None
    problems: list[str] | None = None
    figures_at = told_at = -math.inf
    extra = dict(first)
    while not stop.is_set():
        new = tiles.newest(revision)
        now = time.monotonic()
        figures = now - figures_at >= max(1.0, PACE * len(new))
        drawn = changed(new, shown, figures)
        moved = list(new) != order
        before, problems = problems, board.problems()
        if problems != before:
            extra["problems"] = problems
        if drawn or moved or extra or now - told_at >= 5.0:
            head = {"now": time.time_ns() // 1000, **extra, **({"order": list(new)} if moved else {})}
            body = b",".join(tile.text for tile in drawn)
            yield b'data: %s,"tiles":[%s]}\n\n' % (msgspec.json.encode(head)[:-1], body)
            order, extra, told_at = list(new), {}, now
            redrawn = {tile.number for tile in drawn}
            shown = {n: tile if n in redrawn else shown[n] for n, tile in new.items()}
        if figures:
            figures_at = now
        stop.wait(0.25)  # changes that come together go together
        revision = board.wait(revision, 0.5)
