"""MAT-files: what scipy reads of them; and damaged ones, in which scipy itself would crash."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import loadmat, savemat

from fml_lightning import UserError
from fml_lightning.datamodules import mat_file
from fml_lightning.datamodules.cwru_files import Signal, open_signals
from fml_lightning.datamodules.mat_file import MatError, read_vector

NAME = "X097_DE_time"
OTHER = {"X098_DE_time": np.ones((5, 1)), "X097RPM": np.array([[1796]]), "note": "text", "cells": np.eye(3)}
NORMAL = Signal("normal", "normal", 0, 0)


def saved(values: NDArray[np.generic], compressed: bool, name: str = NAME) -> bytes:
    """A MAT-file as scipy writes it, with other variables before and after."""
    file = io.BytesIO()
    savemat(file, {**OTHER, name: values, "last": np.zeros(3)}, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("shape", [(5000, 1), (1, 5000), (1, 1), (3, 1), (0, 1)])
def test_vectors_are_read_as_scipy_reads_them(
    compressed: bool, dtype: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    values = (100 * np.random.default_rng(1).random(shape)).astype(dtype)
    path = tmp_path / "97.mat"
    path.write_bytes(saved(values, compressed))
    expected = loadmat(path, variable_names=[NAME])[NAME].ravel()
    read = read_vector(path, NAME)
    assert read is not None
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, expected)
    assert read_vector(path, "X097_FE_time") is None


@pytest.mark.parametrize("values", [np.ones((2, 3)), np.ones((3, 1), complex), np.array(["text"])])
def test_what_is_no_vector_of_real_numbers_is_refused(values: NDArray[np.generic], tmp_path: Path) -> None:
    (tmp_path / "97.mat").write_bytes(saved(values, False))
    with pytest.raises(MatError, match="expected a vector of real numbers"):
        read_vector(tmp_path / "97.mat", NAME)


GOOD = [saved(np.random.default_rng(0).normal(size=(200, 1)), compressed) for compressed in (False, True)]


@settings(max_examples=300, deadline=None)
@given(data=st.sampled_from(GOOD), seed=st.integers(0, 2**32))
def test_damaged_files_are_read_or_refused(
    data: bytes, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    path = tmp_path_factory.getbasetemp() / "97.mat"
    for _ in range(30):
        damaged = bytearray(data)
        for _ in range(rng.randrange(4)):
            damaged[rng.randrange(len(damaged))] = rng.choice([0, 255, rng.randrange(256)])
        path.write_bytes(damaged[: rng.randrange(len(damaged)) if rng.random() < 0.2 else None])
        with contextlib.suppress(MatError):
            read_vector(path, NAME)


def bomb(count: int, compressed: bool) -> bytes:
    """A file whose variable has so many zeros, or says so."""
    name = struct.pack("<II", 1, len(NAME)) + NAME.encode() + bytes(-len(NAME) % 8)
    head = struct.pack("<IIIIIIii", 6, 8, 6, 0, 5, 8, count, 1) + name + struct.pack("<II", 9, 8 * count % 2**32)
    size = (len(head) + 8 * count) % 2**32
    matrix = struct.pack("<II", 14, size) + head
    if compressed:
        packer = zlib.compressobj()
        content = packer.compress(matrix) + b"".join(
            packer.compress(bytes(8_000_000)) for _ in range(count // 10**6)
        )
        content += packer.flush()
        matrix = struct.pack("<II", 15, len(content)) + content
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + matrix


@pytest.mark.parametrize(("count", "compressed"), [(100_000_000, True), (100_000_000, False), (2**31 - 1, False)])
def test_what_would_take_gigabytes_is_refused_in_little_memory(
    count: int, compressed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "97.mat"
    path.write_bytes(bomb(count, compressed))
    assert path.stat().st_size < 2_000_000
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from fml_lightning.datamodules.mat_file import MatError, read_vector\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (400 * 2**20,) * 2)\n"
        "try: read_vector(Path(sys.argv[1]), sys.argv[2])\n"
        "except MatError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path, NAME], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("expected at most 8,388,608 numbers, got")


def test_a_file_as_long_as_is_read_at_all_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mat_file, "MOST", 1000)
    for compressed in (False, True):
        (tmp_path / "97.mat").write_bytes(saved(np.random.default_rng(0).normal(size=(1000, 1)), compressed))
        read = read_vector(tmp_path / "97.mat", NAME)
        assert read is not None
        assert len(read) == 1000


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "97.mat is not a readable .mat file .it has no header of a level 5 MAT-file.; download it again"),
        (GOOD[0][:700], "ends within an element|no variable X097_DE_time"),
        (GOOD[1][:300] + b"\x00" * 900, "97.mat is not a readable .mat file"),
        (saved(np.ones((0, 1)), True), "97.mat, variable X097_DE_time: no sample in it"),
    ],
)
def test_cwru_names_the_damaged_file(content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "97.mat").write_bytes(content)
    with pytest.raises(UserError, match=complaint) as refused:
        open_signals(str(tmp_path)).read(NORMAL)
    assert "\n" not in str(refused.value)
