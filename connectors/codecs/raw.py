"""Raw samples: binary numbers without any header; the configuration says what they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fml_lightning.connectors.codecs.binary import Binary, ByteOrder, DType, check
from fml_lightning.connectors.codecs.codec import Codec, Sample
from fml_lightning.connectors.codecs.numbers import scaled
from fml_lightning.errors import UserError


@dataclass(frozen=True)
class RawSamples(Codec):
    """One block per message, or one of each interleaved channel, without time."""

    sample_rate: float
    """Hz, of each channel."""
    dtype: DType = "float32"
    """How a sample is stored."""
    byte_order: ByteOrder = "little"
    """Which byte of a sample is first."""
    scale: float = 1.0
    """The value is raw · scale + offset, in the sensor's unit; finite, not 0."""
    offset: float = 0.0
    """In the sensor's unit; finite."""
    channels: tuple[str, ...] = ()
    """The names of interleaved channels, such as x, y, z: the samples are x, y, z, x, y, z, and so on. None: the
    samples are of one channel, which the topic names."""

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate < math.inf:
            raise UserError(f"RawSamples.sample_rate: expected Hz above 0, got {self.sample_rate}")
        check("RawSamples", self.scale, self.offset, self.channels)

    @cached_property
    def _binary(self) -> Binary:
        return Binary("none", self.dtype, self.byte_order, self.scale, self.offset, self.channels)

    @property
    def _is_plain(self) -> bool:
        """See `Codec._is_plain`: only interleaved channels have names."""
        return not self.channels

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One block of each channel; what is not finite, or beyond float32, is kept, and flagged later."""
        if not payload:
            return ()
        if not self.channels:  # as most often, and every further call costs time
            values = scaled(self._binary.stored(payload, "payload"), self.scale, self.offset)
            return (Sample(values, None, self.sample_rate),)
        blocks = self._binary.blocks(payload, "payload")
        return [Sample(values, None, self.sample_rate, channel) for channel, values in blocks]
