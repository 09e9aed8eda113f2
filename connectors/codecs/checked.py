"""Checks of what codecs from outside this package return, so that a wrong sample does not end a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fml_lightning.connectors.codecs.codec import CodecError, Sample
from fml_lightning.connectors.codecs.times import EARLIEST, LATEST


def checked(decode: Callable[[bytes], Sequence[Sample]]) -> Callable[[bytes], Sequence[Sample]]:
    """A function that calls `decode`, and raises a TypeError if the samples are not as `Sample` says."""

    def decode_and_check(payload: bytes) -> Sequence[Sample]:
        try:
            samples = list(decode(payload))
        except CodecError as error:
            error.samples = list(error.samples)
            _check(error.samples)
            raise
        _check(samples)
        return samples

    return decode_and_check


def _check(samples: Sequence[Sample]) -> None:
    for sample in samples:
        values, time, rate = sample.values, sample.time, sample.sample_rate
        if type(values) is not float and not _is_block(values):
            raise TypeError(f"expected values as a float, or (n,) float32, n >= 1; the codec returned {values!r}")
        if time is not None and not (type(time) is int and EARLIEST <= time < LATEST):
            raise TypeError(f"expected a time as an int, µs since 1970, 1900 to 2261; the codec returned {time!r}")
        if rate is not None and not isinstance(rate, int | float):
            raise TypeError(f"expected a sample rate in Hz, or None; the codec returned {rate!r}")
        for name in (sample.channel, sample.machine, sample.site):
            if name is not None and not isinstance(name, str):
                raise TypeError(f"expected a name as a str, or None; the codec returned {name!r}")


def _is_block(values: object) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == np.float32 and values.ndim == 1 and len(values) > 0
