"""Blocks of samples in a frame of readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from fml_lightning.connectors.quality import Quality
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason
from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.preprocessing import TOLERANCE

MAX_LATENESS = 604_800.0
"""Seconds after which a reading is too late to be trained on, unless a user says otherwise: a week."""

RATES = 1e-6, 1e9
"""Sample rates of blocks, Hz, from and to."""


def sort_out(
    readings: pl.DataFrame, max_lateness: float, unusable: Mapping[Reason, pl.Expr]
) -> tuple[pl.DataFrame, dict[str, LeftOut]]:
    """The readings (`READINGS`) that are of a certain time and usable, and how many others each machine has sent.

    Args:
        readings: in the order in which they came.
        max_lateness: seconds from the device's time to the time a reading was received, at most.
        unusable: which others are left out, by the reason; of several reasons the first one counts.
    """
    late = (pl.col("received") - pl.col("time")).dt.total_microseconds() > max_lateness * 1e6
    is_out = {
        Reason.RETAINED: has(Quality.RETAINED),
        Reason.IMPLAUSIBLE_TIME: has(Quality.IMPLAUSIBLE_TIME),
        Reason.BAD: has(Quality.BAD),
        Reason.TOO_LATE: late,
        **unusable,
    }
    reasons = readings.select(
        "machine", reason=pl.coalesce(pl.when(is_so).then(pl.lit(why.name)) for why, is_so in is_out.items())
    )
    left_out: dict[str, LeftOut] = {}
    for machine, name, count in reasons.drop_nulls().group_by("machine", "reason").len().iter_rows():
        left_out.setdefault(machine, LeftOut())[Reason[name]] = count
    return (readings.filter(reasons["reason"].is_null()) if left_out else readings), left_out


def no_blocks(sample_rate: float | None) -> Mapping[Reason, pl.Expr]:
    """Which readings are no blocks, or of another sample rate (Hz; None: any is right), by the reason."""
    is_block = pl.col("sample_rate").is_between(*RATES) & (pl.col("values").list.len() > 0)
    deviation = pl.lit(0.0) if sample_rate is None else (pl.col("sample_rate") / sample_rate - 1).abs()
    return {Reason.NO_BLOCK: ~is_block.fill_null(False), Reason.OTHER_RATE: deviation > TOLERANCE}


def of_first_unit(readings: pl.DataFrame, units: dict[str, str]) -> tuple[pl.DataFrame, dict[str, LeftOut]]:
    """The readings that are in their channel's first unit, and how many others each machine has sent.

    A reading whose unit nobody says counts as one in the first unit: a device may name it only sometimes.

    Args:
        readings: `READINGS`, in the order in which they came.
        units: the first unit of each machine's channels so far; those of further ones are added.
    """
    stream = pl.concat_str("machine", "channel", separator="\0")
    named = readings.select("unit", stream=stream).filter(pl.col("unit").is_not_null())
    for unit, key in named.unique("stream", keep="first", maintain_order=True).iter_rows():
        units.setdefault(key, unit)
    first = stream.replace_strict(units, default=None, return_dtype=pl.String)
    is_other = readings.select("machine", other=(pl.col("unit") != first).fill_null(False))
    if not is_other["other"].any():
        return readings, {}
    counts = is_other.filter("other").group_by("machine").len().rows()
    return readings.filter(~is_other["other"]), {m: LeftOut({Reason.OTHER_UNIT: count}) for m, count in counts}


def blocks(readings: pl.DataFrame) -> Iterator[tuple[str, list[tuple[str, Block]]]]:
    """Each machine's blocks, with their channels, in the order in which they came.

    Args:
        readings: blocks (`READINGS`), with the column `source`, who sent each.
    """
    for (machine,), own in readings.group_by("machine", maintain_order=True):
        yield str(machine), list(_blocks(own))


def has(flag: Quality) -> pl.Expr:
    """Which readings have a flag."""
    return (pl.col("quality") & int(flag)) != 0


def _blocks(readings: pl.DataFrame) -> Iterator[tuple[str, Block]]:
    values = readings["values"].explode().to_numpy()
    ends = readings["values"].list.len().cum_sum().to_list()
    times = readings["time"].to_physical().to_list()
    timed = ((readings["quality"] & int(Quality.NO_DEVICE_TIME)) == 0).to_list()
    begins = [0, *ends[:-1]]
    rates, sources, channels = readings["sample_rate"], readings["source"], readings["channel"]
    rows = zip(channels, begins, ends, times, rates, timed, sources, strict=True)
    for channel, begin, end, time, rate, own, source in rows:
        yield channel, Block(time, rate, values[begin:end], own, source)
