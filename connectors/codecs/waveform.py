"""Waveform blocks: a fixed header and little-endian samples, our own format for devices that can choose theirs.

| offset | size | type | field | |
| --- | --- | --- | --- | --- |
| 0 | 4 | bytes | magic | `FMLW` |
| 4 | 1 | u8 | version | 1 |
| 5 | 1 | u8 | dtype | 1: float32, 2: int16 |
| 6 | 2 | u16 | reserved | 0 |
| 8 | 4 | u32 | count | samples n, at least 1 |
| 12 | 8 | i64 | time | of the first sample, µs since 1970, UTC; 0: none |
| 20 | 8 | f64 | sample rate | Hz, above 0 |
| 28 | 4 | f32 | scale | finite, not 0 |
| 32 | 4 | f32 | offset | finite |
| 36 | 4n or 2n | dtype | samples | the value is raw · scale + offset, in the sensor's unit |

All of it is little-endian, and nothing follows the samples.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fml_lightning.connectors.codecs.codec import Codec, CodecError, Sample
from fml_lightning.connectors.codecs.numbers import scaled
from fml_lightning.connectors.codecs.times import to_microseconds
from fml_lightning.errors import UserError

HEADER = struct.Struct("<4sBBHIqdff")
MAGIC = b"FMLW"
VERSION = 1

_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("<i2")}
_CODES: dict[str, int] = {"float32": 1, "int16": 2}


@dataclass(frozen=True)
class WaveformBlock(Codec):
    """One waveform block per message; its header says all there is to configure."""

    @property
    def _is_plain(self) -> bool:
        """See `Codec._is_plain`: the header names nothing."""
        return True

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One block; NaN and infinite samples are kept, and flagged later."""
        if not payload:
            return ()
        if len(payload) < HEADER.size:
            raise CodecError(f"expected a header of {HEADER.size} bytes, got {len(payload)} bytes")
        magic, version, code, reserved, count, time, rate, scale, offset = HEADER.unpack_from(payload)
        if magic != MAGIC or version != VERSION or reserved != 0:
            raise CodecError(
                f"expected a waveform block: {MAGIC!r}, version {VERSION}, reserved 0;"
                f" got {magic!r}, {version}, {reserved}"
            )
        dtype = _DTYPES.get(code)
        if dtype is None:
            raise CodecError(f"expected dtype 1 (float32) or 2 (int16), got {code}")
        if count < 1 or len(payload) != HEADER.size + count * dtype.itemsize:
            raise CodecError(
                f"expected {count} samples of {dtype.itemsize} bytes, at least one,"
                f" got {len(payload) - HEADER.size} bytes of samples"
            )
        if not 0 < rate < math.inf:
            raise CodecError(f"expected a sample rate above 0 Hz, got {rate}")
        if not (math.isfinite(scale) and scale != 0 and math.isfinite(offset)):
            raise CodecError(f"expected a finite scale, not 0, and a finite offset, got {scale} and {offset}")
        values = scaled(np.frombuffer(payload, dtype, count, HEADER.size), scale, offset)
        return (Sample(values, to_microseconds(time, "us") if time else None, rate),)


def encode_waveform(
    values: ArrayLike,
    sample_rate: float,
    time: int | None = None,
    dtype: Literal["float32", "int16"] = "float32",
    scale: float = 1.0,
    offset: float = 0.0,
) -> bytes:
    """One waveform block, for devices and simulators.

    Args:
        values: samples in the sensor's unit, (n,), n ≥ 1.
        sample_rate: Hz.
        time: of the first sample, µs since 1970, UTC; None where the device has no clock.
        dtype: how a sample is stored; int16 rounds to the nearest step of `scale`.
        scale: the sensor's unit per step.
        offset: in the sensor's unit.

    Raises:
        UserError: the values do not fit.
    """
    scale, offset = float(np.float32(scale)), float(np.float32(offset))  # as the header has them
    if not (0 < sample_rate < math.inf and math.isfinite(scale) and scale != 0 and math.isfinite(offset)):
        raise UserError(
            "encode_waveform: expected Hz above 0, a finite scale, not 0, and a finite offset,"
            f" got {sample_rate}, {scale} and {offset}"
        )
    raw = (np.asarray(values, np.float64) - offset) / scale
    if raw.ndim != 1 or not raw.size:
        raise UserError(f"encode_waveform: expected values of shape (n,), n >= 1, got shape {raw.shape}")
    if dtype == "int16":
        raw = np.rint(raw)
        if not np.all(np.abs(raw + 0.5) <= 32767.5):
            raise UserError(f"encode_waveform: expected values within int16 at scale {scale}; raise scale")
    header = HEADER.pack(MAGIC, VERSION, _CODES[dtype], 0, len(raw), time or 0, sample_rate, scale, offset)
    return header + raw.astype(_DTYPES[_CODES[dtype]]).tobytes()
