"""What the metrics of one message of Sparkplug B measure, with what births have said of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.codec import LONGEST_NAME, MOST_SKIPPED, CodecError, Faults, Sample
from fml_lightning.connectors.codecs.numbers import scalar, shown
from fml_lightning.connectors.codecs.sparkplug_values import (
    ARRAYS,
    BOOLEAN,
    DATA_SET,
    DATE_TIME,
    TEMPLATE,
    array_of,
    columns_of,
    number_of,
    properties_of,
)
from fml_lightning.connectors.codecs.times import to_microseconds
from fml_lightning.connectors.quality import Quality

MOST_ELEMENTS = 256
"""Elements of an array without a sample rate: each is a channel of its own, so longer ones are surely signals."""
MOST_IN_MESSAGE = 65_536
"""Elements of all arrays without a sample rate in one message: booleans take a bit each, readings far more."""
MOST_NESTED = 16
"""Templates within one another."""
_LATE = int(Quality.LATE)  # flags are slow


class Definition(NamedTuple):
    """What a birth says of a metric."""

    name: str
    """With the names of the templates that it is in."""
    datatype: int
    unit: str | None = None
    rate: float | None = None
    """Hz, of an array."""


class UnknownMetricError(CodecError):
    """A metric that no birth has told of."""


@dataclass
class Metrics:
    """Reads the metrics of one message; what is wrong with one of them costs itself only."""

    known: dict[int | str, Definition]
    """The metrics by alias and by name; a birth's are added."""
    is_birth: bool
    message: Any
    """The protobuf message, whose time is that of metrics without one."""
    machine: str
    site: str
    sample_rate: float | str | None
    """As of `SparkplugB`."""
    faults: Faults
    skipped: dict[str, str] = field(default_factory=dict)
    """Metrics that have a value in which no number is found."""
    has_unknown: bool = False
    """Whether a birth must tell of a metric before it can be read."""
    samples: list[Sample] = field(default_factory=list)
    _elements: int = 0

    def read(self) -> list[Sample]:
        """The samples of all metrics, in order."""
        self._read(self.message.metrics, self.message, "", 0, 0)
        return self.samples

    def _read(self, metrics: Iterable[Any], stamp: Any, prefix: str, quality: int, depth: int) -> None:
        """The metrics of a message or of a template.

        Args:
            metrics: protobuf messages.
            stamp: what has the time of metrics without one.
            prefix: the names of the templates that they are in, each with a slash behind it.
            quality: the flags of these templates.
            depth: their number.
        """
        for metric in metrics:
            try:
                self._metric(metric, stamp, prefix, quality, depth)
            except UnknownMetricError as error:
                self.has_unknown = True
                self.faults.add(str(error))
            except CodecError as error:
                self.faults.add(str(error))

    def _metric(self, metric: Any, stamp: Any, prefix: str, quality: int, depth: int) -> None:
        definition = self._definition(metric, prefix)
        unit, rate = definition.unit, definition.rate
        if metric.HasField("properties"):
            said = properties_of(metric, self.sample_rate if isinstance(self.sample_rate, str) else None)
            unit, rate, quality = said.unit or unit, said.rate or rate, quality | said.quality
            definition = definition._replace(unit=unit, rate=rate)
        name, datatype = definition.name, definition.datatype
        if self.is_birth:
            self.known[name] = definition
            if metric.HasField("alias"):
                self.known[metric.alias] = definition
        if metric.is_null or (_is_control(name) and not prefix):
            return
        if metric.is_historical:
            quality |= _LATE
        stamp = metric if metric.HasField("timestamp") else stamp
        if datatype <= BOOLEAN:
            value = number_of(metric, datatype, name)
            if value is not None:
                sample = Sample(value, _time(stamp), None, name, self.machine, self.site, unit, quality)
                self.samples.append(sample)
            return
        if datatype == TEMPLATE and metric.HasField("template_value"):
            if not metric.template_value.is_definition:
                if depth == MOST_NESTED:
                    raise CodecError(
                        f"metric {shown(name)}: expected at most {MOST_NESTED} templates within one another"
                    )
                self._read(metric.template_value.metrics, stamp, f"{name}/", quality, depth + 1)
        elif datatype == DATA_SET and metric.HasField("dataset_value"):
            self._data_set(metric.dataset_value, definition, _time(stamp), quality)
        elif datatype in ARRAYS:
            if metric.WhichOneof("value") is not None:
                self._array(array_of(metric, datatype, name), definition, _time(stamp), quality)
        else:
            self._skip(name, "no numbers")

    def _definition(self, metric: Any, prefix: str) -> Definition:
        """What is known of a metric, from itself and from its birth; its name is the whole one."""
        name = metric.name
        if not isinstance(name, str):  # protobuf gives bytes where they are not UTF-8
            raise CodecError("expected a metric's name in UTF-8")
        name = prefix + name if name else ""
        if len(name) > LONGEST_NAME:
            raise CodecError(f"expected a metric's name of at most {LONGEST_NAME} characters, got {shown(name)}")
        born = self.known.get(name) if name else self.known.get(metric.alias) if metric.HasField("alias") else None
        if born is not None:
            return born if metric.datatype in (0, born.datatype) else born._replace(datatype=metric.datatype)
        if not name or not metric.datatype:
            which = f"metric {shown(name)}" if name else f"alias {metric.alias}"
            raise UnknownMetricError(f"expected a birth that tells name and datatype of {which}, got none yet")
        return Definition(name, metric.datatype)

    def _array(self, numbers: NDArray[Any], definition: Definition, time: int | None, quality: int) -> None:
        """A block, where the sample rate is known; else each element is a channel, named by its number."""
        rate = definition.rate if isinstance(self.sample_rate, str) else self.sample_rate
        if rate is not None:
            self._block(definition.name, numbers, rate, time, definition.unit, quality)
        elif len(numbers) > MOST_ELEMENTS or self._elements + len(numbers) > MOST_IN_MESSAGE:
            self._skip(definition.name, "arrays without a sample rate")
        else:
            self._elements += len(numbers)
            for i, number in enumerate(numbers.tolist()):
                self._scalar(f"{definition.name}/{i}", number, time, definition.unit, quality)

    def _data_set(self, data_set: Any, definition: Definition, time: int | None, quality: int) -> None:
        """A channel of each column of numbers: each row is a reading, or all are a block, if the rate is known.

        The first column of times has the rows' times; else they have the metric's.
        """
        columns = list(columns_of(data_set, definition.name))
        times = [time] * len(data_set.rows)
        clock = next((i for i, (_, datatype, _) in enumerate(columns) if datatype == DATE_TIME), None)
        if clock is not None:
            times = [_time_of(cell, time) for cell in columns[clock][2]]
        for i, (column, datatype, cells) in enumerate(columns):
            name = f"{definition.name}/{column}"
            if datatype > BOOLEAN and i != clock and cells:
                self._skip(name, "no numbers")
            if datatype > BOOLEAN or not cells:
                continue
            numbers = [self._number(cell, datatype, name) for cell in cells]
            if definition.rate is not None:
                signal = np.array([math.nan if number is None else number for number in numbers])
                self._block(name, signal, definition.rate, times[0], definition.unit, quality)
                continue
            for number, at in zip(numbers, times, strict=True):
                if number is not None:
                    self._scalar(name, number, at, definition.unit, quality)

    def _number(self, cell: Any, datatype: int, name: str) -> float | None:
        """The number in a cell; None where there is none, or a bad one."""
        try:
            return number_of(cell, datatype, name)
        except CodecError as error:
            self.faults.add(str(error))
            return None

    def _block(
        self, name: str, numbers: NDArray[Any], rate: float, time: int | None, unit: str | None, quality: int
    ) -> None:
        """One block, unless it is empty; numbers beyond float32 become infinite, and are flagged later."""
        if numbers.size:
            with np.errstate(over="ignore"):
                values = numbers.astype(np.float32)
            self.samples.append(Sample(values, time, rate, name, self.machine, self.site, unit, quality))

    def _scalar(self, name: str, number: float, time: int | None, unit: str | None, quality: int) -> None:
        try:
            value = scalar(number, f"metric {shown(name)}")
        except CodecError as error:
            self.faults.add(str(error))
            return
        self.samples.append(Sample(value, time, None, name, self.machine, self.site, unit, quality))

    def _skip(self, name: str, kind: str) -> None:
        if len(self.skipped) < MOST_SKIPPED:
            self.skipped[name] = kind


def _time(stamp: Any) -> int | None:
    """The time of a metric or a message, µs; None where it has none."""
    return to_microseconds(stamp.timestamp, "ms") if stamp.HasField("timestamp") else None


def _time_of(cell: Any, other: int | None) -> int | None:
    """The time in a cell of a data set, µs; the other one where there is none."""
    return to_microseconds(cell.long_value, "ms") if cell.WhichOneof("value") == "long_value" else other


def _is_control(name: str) -> bool:
    """Whether a metric steers its edge node or device, or counts its births, and measures nothing."""
    return name == "bdSeq" or name.startswith(("Node Control/", "Device Control/"))
