"""MATLAB's level 5 MAT-files, as far as recordings need them: vectors of real numbers by their names.

`scipy.io.loadmat` reads more, but a damaged file can end the process in it, or take any amount of memory. Nothing
here is read or decompressed beyond what the file holds and what `MOST` numbers take.

MATLAB, MAT-File Format. https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 2**23
"""Numbers in a variable; the longest recordings that are published in this format have half a million."""
HEAD = 4096
"""Bytes of a variable that hold its name."""
MATRIX, COMPRESSED = 14, 15
"""Types of the elements that are variables."""
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""numpy's names of the types of elements that are numbers."""
NUMERIC_CLASSES = range(6, 16)
"""MATLAB's classes double, single, and integers."""
COMPLEX = 0x0800


class MatError(ValueError):
    """A file that is no MAT-file, or a damaged one; or a variable that is no vector."""


def read_vector(path: Path, name: str) -> NDArray[np.float64] | None:
    """A vector of real numbers, (n,); None if the file has no variable of that name.

    Raises:
        MatError: the file cannot be read as far as the variable, or the variable is no such vector.
        OSError: the file cannot be read.
    """
    with _opened(path) as file:
        for variable in _variables(file):
            if _name(variable.head, variable.order) == name:
                return _vector(variable.content(), variable.order)
    return None


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each variable of real numbers, by its name; no number is read.

    Raises:
        MatError: the file cannot be read.
        OSError: the file cannot be read.
    """
    shapes = {}
    with _opened(path) as file:
        for variable in _variables(file):
            is_real, shape, _ = _kind(variable.head, variable.order)
            if is_real:
                shapes[_name(variable.head, variable.order)] = shape
    return shapes


class _Variable(NamedTuple):
    head: memoryview
    """Its first bytes, with name and shape."""
    content: Callable[[], memoryview]
    """Reads all of it; until the next variable is asked for."""
    order: str
    """The order of its bytes, `<` or `>`."""


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not path.is_file():
        raise MatError("it is no file")
    with path.open("rb") as file:
        try:
            yield file
        except (struct.error, zlib.error, ValueError) as error:
            raise MatError(str(error)) from error


def _variables(file: BinaryIO) -> Iterator[_Variable]:
    header = file.read(128)
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    if order is None or struct.unpack_from(f"{order}H", header, 124) != (0x0100,):
        raise MatError("it has no header of a level 5 MAT-file")
    length = os.fstat(file.fileno()).st_size
    while tag := file.read(8):
        kind, size = struct.unpack(f"{order}II", tag)
        end = min(file.tell() + size, length)
        size = min(end - file.tell(), 8 * MOST + HEAD)  # as much as is read of it
        if kind == COMPRESSED:
            unpack = zlib.decompressobj()
            head = unpack.decompress(file.read(min(size, HEAD)), HEAD)
            kind, _ = struct.unpack_from(f"{order}II", head)
            if kind == MATRIX:
                yield _Variable(memoryview(head)[8:], partial(_unpacked, file, head[8:], unpack, size), order)
        elif kind == MATRIX:
            head = file.read(min(size, HEAD))
            yield _Variable(memoryview(head), partial(_rest, file, head, size), order)
        elif not 0 < kind <= 18:
            raise MatError(f"at byte {file.tell() - 8:,} is no element")
        file.seek(end)


def _unpacked(file: BinaryIO, head: bytes, unpack: zlib._Decompress, size: int) -> memoryview:
    rest = unpack.unconsumed_tail + file.read(max(0, size - HEAD))
    return memoryview(head + unpack.decompress(rest, 8 * MOST))


def _rest(file: BinaryIO, head: bytes, size: int) -> memoryview:
    return memoryview(head + file.read(size - len(head)))


def _name(matrix: memoryview, order: str) -> str:
    """The name of a variable."""
    _, _, at = _element(matrix, 0, order)  # flags
    _, _, at = _element(matrix, at, order)  # dimensions
    _, name, _ = _element(matrix, at, order)
    return bytes(name).decode("latin-1")


def _kind(matrix: memoryview, order: str) -> tuple[bool, tuple[int, ...], int]:
    """Whether a variable is of real numbers, its shape, and where its name begins."""
    _, flags, at = _element(matrix, 0, order)
    (flag,) = struct.unpack_from(f"{order}I", flags)
    _, sizes, at = _element(matrix, at, order)
    is_real = flag & 0xFF in NUMERIC_CLASSES and not flag & COMPLEX
    return is_real, struct.unpack(f"{order}{len(sizes) // 4}i", sizes), at


def _vector(matrix: memoryview, order: str) -> NDArray[np.float64]:
    """The numbers of a variable, (n,)."""
    is_real, shape, at = _kind(matrix, order)
    _, _, at = _element(matrix, at, order)  # name
    if not is_real or sum(size != 1 for size in shape) > 1:
        got = "some" if is_real else "another class"
        raise MatError(f"expected a vector of real numbers, got {got} of shape {shape}")
    if not 0 <= math.prod(shape) <= MOST:
        raise MatError(f"expected at most {MOST:,} numbers, got {math.prod(shape):,}")
    kind, numbers, _ = _element(matrix, at, order)
    if kind not in NUMBERS:
        raise MatError(f"expected numbers, got an element of type {kind}")
    dtype = np.dtype(f"{order}{NUMBERS[kind]}")
    if len(numbers) != math.prod(shape) * dtype.itemsize:
        raise MatError(f"expected {shape} numbers of {dtype.itemsize} bytes, got {len(numbers):,} bytes")
    return np.frombuffer(numbers, dtype).astype(np.float64)


def _element(data: memoryview, at: int, order: str) -> tuple[int, memoryview, int]:
    """The type and the content of the element at a place, and where the next one begins."""
    kind, size = struct.unpack_from(f"{order}II", data, at)
    begin, end = at + 8, at + 8 + (size + 7) // 8 * 8
    if kind >> 16:  # a small one: both numbers are in the first four bytes, the content is in the next four
        kind, size, begin, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        if size > 4:
            raise MatError(f"a small element of {size} bytes")
    content = data[begin : begin + size]
    if len(content) < size:
        raise MatError(f"it ends within an element of {size:,} bytes")
    return kind, content, end
