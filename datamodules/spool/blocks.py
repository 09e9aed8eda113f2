"""Blocks of samples in a frame of readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import polars as pl

from fml_lightning.connectors.quality import Quality
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason
from fml_lightning.preprocessing.block import Block
from fml_lightning.preprocessing.preprocessing import Preprocessing

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


def no_blocks(readings: pl.DataFrame, preprocessing: Preprocessing) -> Mapping[Reason, pl.Expr]:
    """Which readings are no blocks, or of a sample rate that is not, nor can be brought to, the expected one."""
    is_block = pl.col("sample_rate").is_between(*RATES) & (pl.col("values").list.len() > 0)
    rates = readings.filter(is_block)["sample_rate"].unique().to_list()
    others = [rate for rate in rates if not preprocessing.takes(rate)]
    return {
        Reason.NO_BLOCK: ~is_block.fill_null(False),
        Reason.OTHER_RATE: pl.col("sample_rate").is_in(others),
    }


def of_one_unit(
    readings: pl.DataFrame, units: dict[str, str], unit: str | None = None
) -> tuple[pl.DataFrame, dict[str, LeftOut]]:
    """The readings that are in the expected unit, and how many others each machine has sent.

    A reading whose unit nobody says counts as one in the expected unit: a device may name it only sometimes.

    Args:
        readings: `READINGS`, in the order in which they came.
        units: the first unit of each machine's channels so far; those of further ones are added.
        unit: which is expected of all channels; None: of each machine's channel its first one.
    """
    stream = pl.concat_str("machine", "channel", separator="\0")
    named = readings.select("unit", stream=stream).filter(pl.col("unit").is_not_null())
    for first, key in named.unique("stream", keep="first", maintain_order=True).iter_rows():
        units.setdefault(key, first)
    expected = stream.replace_strict(units, default=None, return_dtype=pl.String) if unit is None else pl.lit(unit)
    is_other = readings.select("machine", other=(pl.col("unit") != expected).fill_null(False))
    if not is_other["other"].any():
        return readings, {}
    counts = is_other.filter("other").group_by("machine").len().rows()
    return readings.filter(~is_other["other"]), {m: LeftOut({Reason.OTHER_UNIT: count}) for m, count in counts}


class Arrived(NamedTuple):
    """A block that has come."""

    place: int
    """Of its reading, among those that came with it."""
    channel: str
    block: Block


def blocks(readings: pl.DataFrame) -> Iterator[tuple[str, list[Arrived]]]:
    """Each machine's blocks, in the order in which they came.

    Args:
        readings: blocks (`READINGS`), with the columns `source`, who sent each, and `place`.
    """
    for (machine,), own in readings.group_by("machine", maintain_order=True):
        yield str(machine), list(_blocks(own))


def has(flag: Quality) -> pl.Expr:
    """Which readings have a flag."""
    return (pl.col("quality") & int(flag)) != 0


def _blocks(readings: pl.DataFrame) -> Iterator[Arrived]:
    values = readings["values"].explode().to_numpy()
    ends = readings["values"].list.len().cum_sum().to_list()
    times = readings["time"].to_physical().to_list()
    timed = ((readings["quality"] & int(Quality.NO_DEVICE_TIME)) == 0).to_list()
    begins = [0, *ends[:-1]]
    rows = readings.select("place", "channel", "sample_rate", "source").iter_rows()
    for (place, channel, rate, source), begin, end, time, own in zip(
        rows, begins, ends, times, timed, strict=True
    ):
        yield Arrived(place, channel, Block(time, rate, values[begin:end], own, source))
