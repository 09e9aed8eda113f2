"""Readings: what sensors measured.

A `Message` (messages.py) is what came from outside, with a payload that nobody has decoded yet. A codec makes
`Sample`s of it (codecs/codec.py). A *frame of readings* (`READINGS`) is a polars DataFrame with one row for each
sample, a scalar or a waveform block. A `Batch` is what a source yields: readings, and labels that came with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import polars as pl

TIME = pl.Datetime("us", "UTC")
"""All times: microseconds, UTC."""

READINGS = pl.Schema(
    {
        "sequence": pl.Int64(),
        "time": TIME,
        "received": TIME,
        "site": pl.String(),
        "machine": pl.String(),
        "channel": pl.String(),
        "sample_rate": pl.Float64(),
        "values": pl.List(pl.Float32()),
        "unit": pl.String(),
        "quality": pl.UInt16(),
    }
)
"""A frame of readings. `sequence` is the place in the spool of the message that a reading came in; `time`, the
device's time of the first sample, or, where the device sends none, the same as `received`, when the message came;
`site`, `machine` and `channel`, whose the reading is; `sample_rate`, Hz, null for scalars; `values`, the samples
one for a scalar; `unit`, their unit, null where neither topic nor payload names it; `quality`, `Quality` flags."""

LABELS = pl.Schema(
    {
        "sequence": pl.Int64(),
        "time": TIME,
        "received": TIME,
        "site": pl.String(),
        "machine": pl.String(),
        "label": pl.String(),
    }
)
"""A frame of labels: from `time` on, until its next label, the machine is in the state `label`. `received` is when
that was said: of two labels for one time, the one that was said later is a correction of the other."""


@dataclass(frozen=True)
class Batch:
    """What a source yields."""

    readings: pl.DataFrame
    """`READINGS`, in order of `sequence`."""
    labels: pl.DataFrame
    """`LABELS`, in order of `sequence`."""


class Connector(Protocol):
    """A source of readings: `with MQTT(...) as readings: for batch in readings: ...`.

    `MQTT` and `SpoolSource` yield what arrives, `Replay` what is in a file. Each iteration over an `MQTT` begins
    with what came after its opening, each over a `Replay` with the first row; an iteration over a `SpoolSource`
    goes on where the one before ended.
    """

    def __enter__(self) -> Connector:
        """Open the source."""
        ...

    def __exit__(self, *error: object) -> None:
        """Close it."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Batches as they come; a source without an end waits for the next one."""
        ...
