"""Blocks of samples in a frame of readings."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from fml_lightning.connectors.readings import Quality
from fml_lightning.preprocessing.block import Block

DOUBTFUL = Quality.RETAINED | Quality.LATE | Quality.IMPLAUSIBLE_TIME
"""Readings that do not say for certain when they were measured."""


def certain(readings: pl.DataFrame) -> pl.DataFrame:
    """The readings (`READINGS`) whose time is not doubtful."""
    return readings.filter((pl.col("quality") & int(DOUBTFUL)) == 0)


def blocks(readings: pl.DataFrame) -> Iterator[tuple[str, list[Block]]]:
    """Each machine that sent samples with a sample rate, and its blocks in the order in which they came."""
    sampled = readings.filter(pl.col("sample_rate").is_not_null(), pl.col("values").list.len() > 0)
    for (machine,), own in sampled.group_by("machine", maintain_order=True):
        yield str(machine), list(_blocks(own))


def _blocks(readings: pl.DataFrame) -> Iterator[Block]:
    values = readings["values"].explode().to_numpy()
    ends = readings["values"].list.len().cum_sum().to_list()
    times = readings["time"].to_physical().to_list()
    timed = ((readings["quality"] & int(Quality.NO_DEVICE_TIME)) == 0).to_list()
    begins = [0, *ends[:-1]]
    for begin, end, time, rate, own in zip(begins, ends, times, readings["sample_rate"], timed, strict=True):
        yield Block(time, rate, values[begin:end], own)
