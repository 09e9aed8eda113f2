"""Damaged files of data and labels: each is read, or refused in a sentence that names it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning import UserError
from fml_lightning.datamodules.cwru_files import Signal, open_signals
from fml_lightning.datamodules.omniglot import read_images
from fml_lightning.datamodules.spool.labels import read_labels

MANIFEST = (
    "set,load_hp,fault,diameter_mil,clock,file,scale_DE,scale_FE\nnormal12,0,normal,0,,normal.parquet,0.5,0.5\n"
)
IMAGES = np.random.default_rng(0).integers(0, 255, (3, 20, 28, 28), dtype=np.uint8)


def packed(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


LABELS = pl.DataFrame(
    {"time": [datetime(2026, 1, 1, tzinfo=UTC)] * 50, "machine": ["m"] * 50, "label": ["x"] * 50}
)
CODES = pl.DataFrame({"DE": np.arange(500, dtype=np.int32), "FE": np.arange(500, dtype=np.int32)})
FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "labels.parquet": (packed(LABELS.write_parquet), lambda folder: read_labels(folder / "labels.parquet")),
    "labels.csv": (packed(LABELS.write_csv), lambda folder: read_labels(folder / "labels.csv")),
    "normal.parquet": (
        packed(CODES.write_parquet),
        lambda folder: open_signals(str(folder)).read(Signal("normal", "normal", 0, 0)),
    ),
    "manifest.csv": (
        MANIFEST.encode(),
        lambda folder: open_signals(str(folder)).read(Signal("normal", "normal", 0, 0)),
    ),
    "background_28.npz": (
        packed(lambda file: np.savez_compressed(file, images=IMAGES)),
        lambda folder: read_images(folder, "background"),
    ),
}


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_read_or_refused_by_name(
    name: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for other, (content, _) in FILES.items():
        (folder / other).write_bytes(content)
    rng = random.Random(seed)
    content, read = FILES[name]
    for _ in range(10):
        damaged = bytearray(content)
        for _ in range(rng.randrange(4)):
            damaged[rng.randrange(len(damaged))] = rng.choice([0, 255, rng.randrange(256)])
        (folder / name).write_bytes(damaged[: rng.randrange(len(damaged)) if rng.random() < 0.3 else None])
        try:
            read(folder)
        except UserError as error:
            assert name in str(error) or (name == "manifest.csv" and "restore it" in str(error))  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("manifest.csv", b"set,file\nnormal12,x\n", "manifest.csv: expected the columns .*, without load_hp"),
        ("normal.parquet", packed(LABELS.rename({"label": "DE"}).write_parquet), "expected numbers, got String"),
        ("background_28.npz", packed(lambda file: np.savez(file, pictures=IMAGES)), "28.npz cannot be read"),
        (
            "background_28.npz",
            packed(lambda file: np.savez(file, images=IMAGES[0])),
            r"expected images of uint8, .*got",
        ),
    ],
)
def test_files_of_other_contents_are_refused_by_name(
    name: str, content: bytes, complaint: str, tmp_path: Path
) -> None:
    for other, (good, _) in FILES.items():
        (tmp_path / other).write_bytes(good)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        FILES[name][1](tmp_path)


def test_a_damaged_drawing_is_refused_by_name(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "images_background" / "Latin" / "character01"
    folder.mkdir(parents=True)
    for k in range(20):
        image.fromarray(np.zeros((105, 105), np.uint8)).save(folder / f"{k:02d}.png")
    assert read_images(tmp_path, "background").shape == (1, 20, 28, 28)
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"07\.png cannot be read .*; unpack the archive again"):
        read_images(tmp_path, "background")
