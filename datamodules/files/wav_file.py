"""Samples in WAV files: PCM codes as they are, or floats; the header tells the sample rate.

IBM and Microsoft, Multimedia Programming Interface and Data Specifications 1.0, 1991. The standard library reads
no floats, and scipy reads 24 bits only as a whole file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fml_lightning.datamodules.files.signal_file import SignalFile
from fml_lightning.errors import UserError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
KINDS = {
    (PCM, 8): "u1",
    (PCM, 16): "<i2",
    (PCM, 24): "u1",
    (PCM, 32): "<i4",
    (FLOAT, 32): "<f4",
    (FLOAT, 64): "<f8",
}
"""numpy's names of the numbers of each format and size in bits; numbers of 24 bits are read as bytes."""


class WavFile(SignalFile):
    """A WAV file. Its channels have no names, but numbers.

    Args:
        path: of the file.

    Raises:
        UserError: it is none, or its samples are compressed.
    """

    row_name = "sample"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        with path.open("rb") as file:
            try:
                channels, rate = self._read_header(file)
            except struct.error as error:
                raise UserError(f"{path}: expected a WAV file, got one whose header ends too early") from error
        super().__init__(path, [""] * channels, rate)

    def rows(self, columns: Sequence[int]) -> int:
        """How many samples each channel has."""
        return self.count

    def read(self, columns: Sequence[int], first: int, count: int) -> list[NDArray[Any]]:
        """Samples of some channels: codes, or floats."""
        frame = len(self.names) * self.bits // 8
        kind = np.dtype(KINDS[self.format, self.bits])
        count = min(count, self.count - first)
        data = np.fromfile(self.path, kind, count * frame // kind.itemsize, offset=self.begin + first * frame)
        if self.bits == 24:
            low, middle, high = (data[i::3].astype(np.int32) for i in range(3))
            data = (low | middle << 8 | high << 16) - ((high >> 7) << 24)
        elif self.bits == 8:
            data = data.astype(np.int16) - 128
        return [data[column :: len(self.names)] for column in columns]

    def _read_header(self, file: BinaryIO) -> tuple[int, float]:
        """The number of channels and the sample rate; notes where samples are, and how they are written."""
        kind, _, form = struct.unpack("<4sI4s", file.read(12))
        if (kind, form) != (b"RIFF", b"WAVE"):
            raise UserError(f"{self.path}: expected a WAV file, got one that does not begin as such")
        length = os.fstat(file.fileno()).st_size
        layout = None
        while chunk := file.read(8):
            name, size = struct.unpack("<4sI", chunk)
            begin = file.tell()
            if name == b"fmt ":
                layout = file.read(size)
            elif name == b"data" and layout is not None:
                code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", layout)
                if code == EXTENSIBLE:
                    (code,) = struct.unpack_from("<H", layout, 24)
                if (code, bits) not in KINDS or not channels or not rate:
                    raise UserError(
                        f"{self.path}: expected PCM of 8 to 32 bits or floats, got format {code} with {bits} bits,"
                        f" {channels} channels and {rate} Hz; convert it"
                    )
                self.format, self.bits, self.begin = code, bits, begin
                self.count = min(size, length - begin) // (channels * bits // 8)
                return channels, float(rate)
            file.seek(begin + size + size % 2)
        raise UserError(f"{self.path}: expected a WAV file with samples, got none in it")
