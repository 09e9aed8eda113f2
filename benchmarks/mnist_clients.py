"""MNIST split over clients of two digits each, as pFedMe's generator does it (https://github.com/CharlieDinh/pFedMe)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from fml_lightning import Episode, Examples
from fml_lightning.datamodules.loaders import Batches, EpisodeLoader

KNOWN, NEW = 20, 5
"""Clients that train, and clients that never do."""


@dataclass(frozen=True)
class Digits:
    """Images (n, 784) and digits (n,)."""

    x: Tensor
    y: Tensor

    def draw(self, size: int, rng: np.random.Generator, balanced: bool) -> tuple[Tensor, Tensor]:
        """`size` of them, at random or equally many of each digit, as one task: (1, size, 784), (1, size)."""
        if balanced:
            digits = np.unique(self.y.numpy())
            each = [rng.choice(np.flatnonzero(self.y.numpy() == d), size // len(digits), False) for d in digits]
            rows = torch.from_numpy(np.concatenate(each))
        else:
            rows = torch.from_numpy(rng.choice(len(self.y), size, replace=False))
        return self.x[rows][None], self.y[rows][None]


class Client(LightningDataModule):
    """One client's training and test images, as episodes of one task.

    Args:
        train: three quarters of its images.
        test: the others.
        support: images an episode adapts on.
        query: images it is judged by in training.
        balanced: equally many of each digit in support and query, as tasks of few-shot learning have.
    """

    def __init__(self, train: Digits, test: Digits, support: int, query: int, balanced: bool) -> None:
        super().__init__()
        self.train, self.test = train, test
        self.support, self.query, self.balanced = support, query, balanced

    def train_dataloader(self) -> EpisodeLoader:
        """Episodes without end."""

        def draw(rng: np.random.Generator) -> Iterator[Episode]:
            while True:
                parts = [self.train.draw(size, rng, self.balanced) for size in (self.support, self.query)]
                yield Episode(Examples(*parts[0]), Examples(*parts[1]))

        return EpisodeLoader(draw)

    def judging(self, shots: int | None, seed: int = 0) -> Episode:
        """Support of `shots` images a digit, or of the whole training set; the test set as query."""
        support = self.train.x[None], self.train.y[None]
        if shots is not None:
            support = self.train.draw(2 * shots, np.random.default_rng(seed), balanced=True)
        return Episode(Examples(*support), Examples(self.test.x[None], self.test.y[None]))


class Clients(LightningDataModule):
    """The known clients, as a fleet: one batch is all of them by name."""

    def __init__(self, clients: dict[str, Client]) -> None:
        super().__init__()
        self.clients = clients

    def train_dataloader(self) -> Iterable[dict[str, Client]]:
        """One batch, one round."""
        return Batches([self.clients])


def split(root: Path, seed: int) -> list[tuple[Digits, Digits]]:
    """Training and test images of the new clients, then of the known ones, as pFedMe's generator draws them."""
    file = np.load(root / "mnist.npz", allow_pickle=False)
    x = file["x"].reshape(-1, 784).astype(np.float32)
    x = (x - x.mean(0)) / (x.std(0) + 0.001)
    rng = np.random.default_rng(seed)
    pools: list[list[int]] = [list(rng.permutation(np.flatnonzero(file["y"] == digit))) for digit in range(10)]
    shares = rng.lognormal(0, 2.0, (10, KNOWN, 2))
    shares /= shares.sum((1, 2), keepdims=True)
    sizes = np.array([len(pool) for pool in pools])
    clients = []
    for client in range(NEW + KNOWN):
        rows: list[int] = []
        for j in range(2):
            digit = (client + j) % 10
            wanted = int(rng.integers(300, 601))
            if client >= NEW:
                wanted = 2 * (wanted + int(sizes[digit] * shares[digit, (client - NEW) // 2, j]))
            wanted = min(wanted, max(100, len(pools[digit]) // 2))
            rows += [pools[digit].pop() for _ in range(wanted)]
        order: NDArray[np.int64] = rng.permutation(np.array(rows))
        cut = len(order) * 3 // 4
        clients.append(
            tuple(
                Digits(torch.from_numpy(x[r]), torch.from_numpy(file["y"][r].astype(np.int64)))
                for r in (order[:cut], order[cut:])
            )
        )
    return clients  # type: ignore[return-value]
