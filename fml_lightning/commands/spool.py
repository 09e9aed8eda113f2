"""`fml spool`: what is in a spool, and the last scalars of a machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import polars as pl

from fml_lightning.commands.live_line import LiveLine
from fml_lightning.commands.process import log_to_stderr, parser, settings_of
from fml_lightning.connectors.decoding.rows import Rows
from fml_lightning.connectors.quality import DOUBTFUL
from fml_lightning.connectors.spool.contents import Contents, read_contents
from fml_lightning.connectors.spool.gaps import Gap
from fml_lightning.connectors.spool.scalars import last_scalars
from fml_lightning.errors import UserError
from fml_lightning.names import escaped

MOST_ROWS = 200
"""Rows of a table, and lines of a list, that are printed at most: the first ones, and of gaps the last ones."""


MOST_CHANNELS = 50
"""Columns of a table of rows that are printed at most."""
LAST = 20
"""Rows of a machine that are printed."""


def run(arguments: Sequence[str]) -> int:
    """Read the whole spool, and print what is in it, or with `--rows` the last scalars of a machine."""
    options = parser("spool")
    options.add_argument("spool", type=str, nargs="?", default="", metavar="SPOOL", help="the folder of the spool")
    options.add_argument(
        "--rows", type=str | None, default=None, metavar="SITE/MACHINE", help="print its last scalars as rows"
    )
    options.add_argument(
        "--within", type=float, default=1.0, help="seconds that the scalars of a row may be apart"
    )
    settings = settings_of(options, arguments)
    if not settings["spool"]:
        raise UserError("expected the folder of a spool, as in fml spool spools/north, got none")
    folder, machine = settings["spool"], settings["rows"]
    log_to_stderr()
    with LiveLine(delay=2.0) as line:

        def progress(messages: int) -> None:
            line.show(lambda: f"{messages:,} messages read")

        if machine is None:
            lines = described(read_contents(folder, progress))
        else:
            lines = rows_described(last_scalars(folder, machine, progress), settings["within"])
    print("\n".join(map(escaped, lines)), flush=True)
    return 0


def rows_described(scalars: pl.DataFrame, within: float) -> list[str]:
    """The lines that `fml spool --rows` prints."""
    lines: list[str] = []
    for (site, machine), its in scalars.group_by("site", "machine", maintain_order=True):
        rows = Rows.of(its, within)
        channels = list(rows.units.items())[:MOST_CHANNELS]
        lines += [f"{site}/{machine}: the last {min(LAST, len(rows.frame))} rows", ""]
        lines += _table(_rows(rows.frame.tail(LAST), channels), names=1)
        if len(rows.units) > MOST_CHANNELS:
            lines += [f"and {len(rows.units) - MOST_CHANNELS:,} more channels"]
    return lines


def _rows(frame: pl.DataFrame, channels: Sequence[tuple[str, str | None]]) -> Iterable[Sequence[str]]:
    """The rows of the table of scalars, with a head."""
    doubts = [[flag for flag in DOUBTFUL if flags & flag] for flags in frame["quality"]]
    heads = [name if not unit or name.endswith(f"[{unit}]") else f"{name} [{unit}]" for name, unit in channels]
    yield ["time (UTC)", *heads, *(["doubtful"] if any(doubts) else [])]
    for row, flags in zip(frame.iter_rows(named=True), doubts, strict=True):
        yield [
            row["time"].strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            *("-" if row[name] is None else f"{row[name]:.6g}" for name, _ in channels),
            *([", ".join(flag.words for flag in flags)] if any(doubts) else []),
        ]


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
    left_out = [f"{n:,} {flag.words}" for flag, n in doubtful.items() if n]
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
    yield [*head, *(flag.words for flag in flags)]
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


def _table(rows: Iterable[Sequence[str]], names: int = 2) -> list[str]:
    """Rows in columns, of which the first ones are names, to the left; the others are numbers, to the right."""
    texts = [[escaped(text) for text in row] for row in rows]
    widths = [max(len(row[i]) for row in texts if i < len(row)) for i in range(len(texts[0]))]
    return [
        "  ".join(
            text.ljust(width) if i < names else text.rjust(width)
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
