"""Checks of what codecs from outside this package return, so that a wrong sample does not end a recording."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.codec import MOST_SKIPPED, CodecError, PartlyRead, Sample
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX
from fml_lightning.connectors.codecs.times import EARLIEST, LATEST
from fml_lightning.connectors.quality import Quality

MOST_SAMPLES, MOST_NUMBERS = 1 << 20, 1 << 24
"""Samples of one message, and numbers in all of them together: a codec that yields without end is stopped."""


def checked(decode: Callable[[bytes], Sequence[Sample]]) -> Callable[[bytes], Sequence[Sample]]:
    """A function that calls `decode`, and raises a TypeError if the samples are not as `Sample` says.

    A codec that wants the process to end (`sys.exit`) has a bug like any other: a RuntimeError.
    """

    def decode_and_check(payload: bytes) -> Sequence[Sample]:
        try:
            return _checked(decode(payload))
        except CodecError as error:
            raise CodecError(str(error), _checked(error.samples)) from error
        except Exception:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # the user's
            raise RuntimeError(f"the codec raised {type(error).__name__}") from error

    return decode_and_check


def _checked(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples, copied, each value of exactly the type that `Sample` says."""
    found: list[Sample] = []
    numbers = 0
    for sample in itertools.islice(samples, MOST_SAMPLES + 1):
        found.append(_sample(sample))
        values = found[-1].values
        numbers += 1 if isinstance(values, float) else len(values)
        if len(found) > MOST_SAMPLES or numbers > MOST_NUMBERS:
            raise TypeError(
                f"expected at most {MOST_SAMPLES:,} samples of {MOST_NUMBERS:,} numbers in one message; the codec"
                " returned more"
            )
    return PartlyRead(found, _skipped(samples.skipped)) if isinstance(samples, PartlyRead) else found


def _sample(sample: object) -> Sample:
    if not isinstance(sample, Sample):
        raise TypeError(f"expected samples; the codec returned {sample!r}")
    values, time, rate = sample.values, sample.time, sample.sample_rate
    if time is not None and not (type(time) is int and EARLIEST <= time < LATEST):
        raise TypeError(f"expected a time as an int, µs since 1970, 1900 to 2261; the codec returned {time!r}")
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise TypeError(f"expected a sample rate in Hz, above 0, or None; the codec returned {rate!r}")
    channel, machine, site = (_name(name) for name in (sample.channel, sample.machine, sample.site))
    if not (type(sample.quality) in (int, Quality) and 0 <= sample.quality <= max(Quality) * 2 - 1):
        raise TypeError(f"expected quality as flags of Quality; the codec returned {sample.quality!r}")
    values, unit, quality = _values(values), _name(sample.unit), int(sample.quality)
    if isinstance(values, float) and rate is not None:
        raise TypeError(f"expected no sample rate beside one number, a scalar; the codec returned {rate!r} Hz")
    if not isinstance(values, float) and rate is None:
        raise TypeError(
            "expected a sample rate beside an array, a block; the codec returned None (a scalar is a float)"
        )
    return Sample(values, time, None if rate is None else float(rate), channel, machine, site, unit, quality)


def _values(values: object) -> float | NDArray[np.float32]:
    if type(values) is float and (abs(values) <= FLOAT32_MAX or not math.isfinite(values)):
        return values
    if isinstance(values, np.ndarray) and values.dtype == np.float32 and values.ndim == 1 and len(values) > 0:
        # A block that the codec may write to again is copied; a view of the payload is not.
        return np.array(values, order="C") if values.flags.writeable else np.ascontiguousarray(values)
    raise TypeError(f"expected values as a float, or (n,) float32, n >= 1; the codec returned {values!r}")


def _name(name: object) -> str | None:
    if name is None or type(name) is str:
        return name
    if isinstance(name, str):  # such as numpy.str_
        return str.__str__(name)
    raise TypeError(f"expected a name as a str, or None; the codec returned {name!r}")


def _skipped(skipped: Mapping[str, str]) -> dict[str, str]:
    return {str(name): str(kind) for name, kind in itertools.islice(skipped.items(), MOST_SKIPPED)}
