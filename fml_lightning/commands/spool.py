"""`fml spool`: what is in a spool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import polars as pl

from fml_lightning.commands.live_line import LiveLine
from fml_lightning.commands.process import log_to_stderr, parser, settings_of
from fml_lightning.connectors.quality import DOUBTFUL
from fml_lightning.connectors.spool.contents import Contents, read_contents
from fml_lightning.connectors.spool.gaps import Gap
from fml_lightning.errors import UserError
from fml_lightning.names import escaped

MOST_ROWS = 200
"""Rows of a table, and lines of a list, that are printed at most: the first ones, and of gaps the last ones."""


def run(arguments: Sequence[str]) -> int:
    """Read the whole spool, and print what is in it."""
    options = parser("spool")
    options.add_argument("spool", type=str, nargs="?", default="", metavar="SPOOL", help="the folder of the spool")
    settings = settings_of(options, arguments)
    if not settings["spool"]:
        raise UserError("expected the folder of a spool, as in fml spool spools/north, got none")
    log_to_stderr()
    with LiveLine(delay=2.0) as line:
        contents = read_contents(
            settings["spool"], lambda messages: line.show(lambda: f"{messages:,} messages read")
        )
    print("\n".join(map(escaped, described(contents))), flush=True)
    return 0


def described(contents: Contents) -> list[str]:
    """The lines that `fml spool` prints."""
    lines = [f"{contents.folder}: {_size(contents)}"]
    if len(contents.streams):
        lines += ["", *_table(_streams(contents.streams))]
    if contents.labels:
        labels = sorted(contents.labels.items())
        lines += [
            "",
            "labels:",
            *_first(f"  {site}/{machine}: {label} ({n:,})" for (site, machine, label), n in labels),
        ]
    doubtful = {flag: int(contents.streams[flag.word].sum()) for flag in DOUBTFUL} if len(contents.streams) else {}
    left_out = [f"{n:,} {flag.word.replace('_', ' ')}" for flag, n in doubtful.items() if n]
    left_out += [f"{contents.repeated:,} repeated (left out)"] if contents.repeated else []
    if left_out:
        lines += ["", f"doubtful readings: {', '.join(left_out)}"]
    if contents.skipped:
        lines += ["", "in payloads, but not read:"]
        lines += _first(f"  {what} ({kind}): {n:,} messages" for (what, kind), n in contents.skipped.most_common())
    if contents.dead:
        lines += ["", f"could not be read, wholly or in part: {contents.dead.total():,} messages"]
        lines += _first(f"  {n:,} x {error}" for error, n in contents.dead.most_common())
    if contents.gaps:
        lines += ["", "gaps and deletions (gaps.jsonl):", *_last(map(_gap, contents.gaps))]
    return lines


def _size(contents: Contents) -> str:
    """How much there is, and from when."""
    if contents.begin is None or contents.end is None:
        return "no messages yet"
    return (
        f"{contents.messages:,} messages, {contents.bytes / 1e6:,.1f} MB in {contents.segments:,} segments,"
        f" received {_time(contents.begin)} to {_time(contents.end)} UTC"
    )


def _streams(streams: pl.DataFrame) -> Iterable[Sequence[str]]:
    """The rows of the table of channels, with a head."""
    flags = [flag for flag in DOUBTFUL if streams[flag.word].sum()]
    head = ["machine", "channel", "unit", "readings", "samples", "Hz", "from", "to"]
    yield [*head, *(flag.word.replace("_", " ") for flag in flags)]
    for row in streams.head(MOST_ROWS).iter_rows(named=True):
        rate = row["sample_rate"]
        yield [
            f"{row['site']}/{row['machine']}",
            row["channel"],
            row["unit"] or "-",
            f"{row['readings']:,}",
            f"{row['samples']:,}",
            "-" if rate is None else f"{rate:g}",
            *("-" if row[end] is None else _time(row[end]) for end in ("begin", "end")),
            *(f"{row[flag.word]:,}" for flag in flags),
        ]
    if len(streams) > MOST_ROWS:
        yield [f"and {len(streams) - MOST_ROWS:,} more"]


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows in columns; names to the left, numbers to the right."""
    texts = [[escaped(text) for text in row] for row in rows]
    widths = [max(len(row[i]) for row in texts if i < len(row)) for i in range(len(texts[0]))]
    return [
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in texts
    ]


def _gap(gap: Gap) -> str:
    ends = " to ".join("?" if end is None else _time(end) for end in (gap.begin, gap.end))
    which = "" if gap.first is None else f", messages {gap.first:,} to {gap.last:,}"
    return f"  {gap.kind}: {ends}{which}: {gap.reason}"


def _first(lines: Iterable[str]) -> list[str]:
    """The first `MOST_ROWS` of some lines."""
    every = list(lines)
    more = [f"  ({len(every) - MOST_ROWS:,} more)"] if len(every) > MOST_ROWS else []
    return every[:MOST_ROWS] + more


def _last(lines: Iterable[str]) -> list[str]:
    """The last `MOST_ROWS` of some lines."""
    every = list(lines)
    more = [f"  ({len(every) - MOST_ROWS:,} more)"] if len(every) > MOST_ROWS else []
    return more + every[-MOST_ROWS:]


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")
