"""Raw samples: binary numbers without any header; the configuration says what they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from fml_lightning.connectors.codecs.codec import Codec, CodecError, Sample
from fml_lightning.connectors.codecs.numbers import scaled
from fml_lightning.errors import UserError


@dataclass(frozen=True)
class RawSamples(Codec):
    """One block per message, without time."""

    sample_rate: float
    """Hz."""
    dtype: Literal["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32"] = "float32"
    """How a sample is stored."""
    byte_order: Literal["little", "big"] = "little"
    """Which byte of a sample is first."""
    scale: float = 1.0
    """The value is raw · scale + offset, in the sensor's unit; finite, not 0."""
    offset: float = 0.0
    """In the sensor's unit; finite."""

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate < math.inf:
            raise UserError(f"RawSamples.sample_rate: expected Hz above 0, got {self.sample_rate}")
        if not (math.isfinite(self.scale) and self.scale != 0 and math.isfinite(self.offset)):
            raise UserError(f"RawSamples: expected a finite scale, not 0, and a finite offset, got {self}")

    @cached_property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<" if self.byte_order == "little" else ">")

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One block; NaN, infinite samples and those beyond float32 are kept, and flagged later."""
        if not payload:
            return ()
        if len(payload) % self._dtype.itemsize:
            raise CodecError(f"expected samples of {self._dtype.itemsize} bytes, got {len(payload)} bytes")
        values = scaled(np.frombuffer(payload, self._dtype), self.scale, self.offset)
        return (Sample(values, None, self.sample_rate),)
