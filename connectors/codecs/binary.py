"""Binary: samples packed in bytes, alone or in a member of a map, and how they are stored there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.numbers import scaled, shown
from fml_lightning.connectors.codecs.unwrap import unwrap
from fml_lightning.errors import UserError

DType = Literal["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32"]
"""How a sample is stored."""
ByteOrder = Literal["little", "big"]
"""Which byte of a sample is first."""


@dataclass(frozen=True)
class Binary:
    """Packed samples without any header, in bytes or in text that stands for bytes."""

    encoding: Literal["base64", "hex", "none"] = "base64"
    """How text stands for the bytes; `none`: they are there as such, which JSON cannot have."""
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
    samples are of one channel, which is named elsewhere."""

    def __post_init__(self) -> None:
        check(type(self).__name__, self.scale, self.offset, self.channels)

    @cached_property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<" if self.byte_order == "little" else ">")

    def read(self, value: object, where: str) -> list[tuple[str | None, NDArray[np.float32]]]:
        """Each channel's name, None if it has none here, and its samples, (n,), n ≥ 1.

        NaN, infinite samples and those beyond float32 are kept, and flagged later.

        Args:
            value: what the payload holds: text or bytes.
            where: its name, for the error.

        Raises:
            CodecError: not text or bytes in this encoding, or no whole number of samples of every channel.
        """
        return self.blocks(self._bytes(value, where), where)

    def blocks(self, raw: bytes, where: str) -> list[tuple[str | None, NDArray[np.float32]]]:
        """As `read`, of the bytes themselves, whatever the encoding is."""
        samples = self.stored(raw, where)
        if not self.channels:
            return [(None, scaled(samples, self.scale, self.offset))]
        columns = samples.reshape(-1, len(self.channels)).T  # (channels, n)
        return [
            (name, np.ascontiguousarray(scaled(column, self.scale, self.offset)))
            for name, column in zip(self.channels, columns, strict=True)
        ]

    def stored(self, raw: bytes, where: str) -> NDArray[Any]:
        """The samples of all channels as they are stored, neither scaled nor parted."""
        dtype = self._dtype
        if not raw or len(raw) % (dtype.itemsize * (len(self.channels) or 1)):
            each = f"{len(self.channels)} channels of {dtype.itemsize}" if self.channels else str(dtype.itemsize)
            raise CodecError(f"{where}: expected samples of {each} bytes, at least one, got {len(raw)} bytes")
        return np.frombuffer(raw, dtype)

    def _bytes(self, value: object, where: str) -> bytes:
        if self.encoding == "none":
            if isinstance(value, bytes):
                return value
            raise CodecError(f"{where}: expected bytes, got {shown(value)}; is an encoding missing in binary?")
        try:
            if isinstance(value, str):
                return unwrap(value.encode(), (self.encoding,))
            if isinstance(value, bytes):
                return unwrap(value, (self.encoding,))
        except (CodecError, UnicodeEncodeError) as error:  # of a lone surrogate, which JSON can write
            raise CodecError(f"{where}: {error}") from error
        raise CodecError(f"{where}: expected text in {self.encoding}, got {shown(value)}")


def check(name: str, scale: float, offset: float, channels: tuple[str, ...]) -> None:
    """Refuse a configuration of packed samples that cannot be meant.

    Args:
        name: the class that is configured, for the error.
        scale: as of `Binary`.
        offset: as of `Binary`.
        channels: as of `Binary`.

    Raises:
        UserError: a scale, an offset or names that no samples can have.
    """
    if not (math.isfinite(scale) and scale != 0 and math.isfinite(offset)):
        raise UserError(f"{name}: expected a finite scale, not 0, and a finite offset, got {scale} and {offset}")
    if "" in channels or len(set(channels)) < len(channels):
        raise UserError(f"{name}.channels: expected names that differ, none of them empty, got {channels}")
