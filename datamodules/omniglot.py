"""Omniglot: 1,623 handwritten characters, 20 drawings of each; the few-shot literature's first test.

Lake, Salakhutdinov, Tenenbaum, Human-level concept learning, Science 2015. https://github.com/brendenlake/omniglot
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from fml_lightning.datamodules.few_shot import FewShot
from fml_lightning.datamodules.loaders import SizedEpisodeLoader, common_generator
from fml_lightning.errors import UserError

SIZE = 28


class Omniglot(LightningDataModule):
    """N-way K-shot episodes; a character turned by 90, 180 or 270 degrees is another class, except in the test.

    Trains on nine tenths of the background characters, validates on the others, tests on the evaluation set.

    Args:
        root: the folder with `images_background/` and `images_evaluation/` as published (PNG, read with Pillow),
            or with `background_28.npz` and `evaluation_28.npz` (`images`: uint8, (characters, 20, 28, 28)).
        few_shot: ways, shots, queries and tasks per episode.
        batches: episodes of a training epoch.
        test_batches: episodes of a validation or test.
    """

    def __init__(
        self, root: str, few_shot: FewShot | None = None, batches: int = 1000, test_batches: int = 20
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.few_shot = few_shot or FewShot()
        self.batches = batches
        self.test_batches = test_batches

    def setup(self, stage: str) -> None:
        """Read the images, once."""
        if hasattr(self, "train"):
            return
        background, evaluation = (read_images(self.root, part) for part in ("background", "evaluation"))
        held_out = np.arange(len(background)) % 10 == 9
        self.train = _turned(background[~held_out])
        self.validation = _turned(background[held_out])
        self.evaluation = _labelled(evaluation)

    def train_dataloader(self) -> SizedEpisodeLoader:
        """Episodes of training characters."""
        return self.few_shot.episodes(*self.train, self.batches)

    def val_dataloader(self) -> SizedEpisodeLoader:
        """Episodes of characters that are not trained on."""
        return self.few_shot.episodes(*self.validation, self.test_batches, common_generator)

    def test_dataloader(self) -> SizedEpisodeLoader:
        """Episodes of the evaluation set, of other alphabets."""
        return self.few_shot.episodes(*self.evaluation, self.test_batches, common_generator)


def read_images(root: Path, part: str) -> NDArray[np.uint8]:
    """All drawings of `background` or `evaluation`: (characters, 20, 28, 28), ink dark.

    Raises:
        UserError: there is no such data below `root`.
    """
    packed, folder = root / f"{part}_28.npz", root / f"images_{part}"
    if packed.is_file():
        return _packed(packed)
    characters = sorted(folder.glob("*/*/"))
    if not characters:
        raise UserError(
            f"Omniglot: neither {packed} nor {folder}/ALPHABET/CHARACTER/*.png is there; set root to the folder of"
            " images_background and images_evaluation, unpacked"
        )
    return np.stack([_drawings(character) for character in characters])


def _packed(path: Path) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images: NDArray[np.uint8] = arrays["images"]
    except Exception as error:  # of a damaged file, whatever numpy, zipfile, zlib and tokenize raise
        raise UserError(f"Omniglot: {path} cannot be read ({error}); download it again") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (20, SIZE, SIZE):
        raise UserError(
            f"Omniglot: {path}: expected images of uint8, (characters, 20, {SIZE}, {SIZE}), got {images.dtype},"
            f" {images.shape}"
        )
    return images


def _drawings(character: Path) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("Omniglot: reading PNG needs Pillow; pip install pillow") from error
    files = sorted(character.glob("*.png"))
    if len(files) != 20:
        raise UserError(
            f"Omniglot: expected 20 drawings in {character}, got {len(files)}; unpack the archive again"
        )
    drawings = []
    for file in files:
        try:
            with file.open("rb") as stream:
                image = Image.open(stream).convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        except Exception as error:  # of a damaged file, whatever Pillow and zlib raise
            raise UserError(f"Omniglot: {file} cannot be read ({error}); unpack the archive again") from error
        drawings.append(np.asarray(image))
    return np.stack(drawings)


def _labelled(images: NDArray[np.uint8]) -> tuple[Tensor, NDArray[np.int64]]:
    """Ink as 1 on 0, (n, 1, 28, 28), and each drawing's character."""
    ink = 1 - torch.from_numpy(images).float().flatten(0, 1)[:, None] / 255
    return ink, np.repeat(np.arange(len(images)), images.shape[1])


def _turned(images: NDArray[np.uint8]) -> tuple[Tensor, NDArray[np.int64]]:
    """Four classes of each character: as it is, and turned by 90, 180 and 270 degrees."""
    return _labelled(np.concatenate([np.rot90(images, k, axes=(2, 3)) for k in range(4)]))
