"""pFedMe step by step as its authors' code has it, without this package: what `mnist_federated` is held against.

Dinh et al. 2020, https://github.com/CharlieDinh/pFedMe, for the logistic model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.mnist_clients import Digits

Part = tuple[Digits, Digits]


def accuracy(weights: Sequence[Tensor], clients: Sequence[Part]) -> float:
    """Of each client's own weights (10, 785) on its test images, in %, over all images."""
    right = [
        int(((_with_one(c[1].x) @ w.T).argmax(1) == c[1].y).sum()) for w, c in zip(weights, clients, strict=True)
    ]
    return 100 * sum(right) / sum(len(client[1].y) for client in clients)


def pfedme(
    clients: Sequence[Part], rounds: int, seed: int, lr: float = 0.005, personal_lr: float = 0.1
) -> list[float]:
    """Accuracy in % of the shared model and of the personal ones; 5 clients a round, λ = 15, K = 5, R = 20."""
    rng = np.random.default_rng(seed)
    shared = torch.zeros(10, 785)

    def local(chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        w = shared.expand(len(chosen), -1, -1)
        theta = w
        for _ in range(20):
            rows = [torch.from_numpy(rng.integers(len(clients[c][0].y), size=20)) for c in chosen]
            x = _with_one(torch.stack([clients[c][0].x[r] for c, r in zip(chosen, rows, strict=True)]))
            y = torch.stack([clients[c][0].y[r] for c, r in zip(chosen, rows, strict=True)])
            for _ in range(5):
                errors = torch.softmax(x @ theta.mT, -1) - torch.nn.functional.one_hot(y, 10)
                theta = theta - personal_lr * (errors.mT @ x / 20 + 15.0 * (theta - w))
            w = w - lr * 15.0 * (w - theta)
        return w, theta

    sizes = torch.tensor([float(len(client[0].y)) for client in clients])
    for _ in range(rounds):
        chosen = rng.choice(len(clients), 5, replace=False).tolist()
        w, _ = local(chosen)
        shares = sizes[chosen] / sizes[chosen].sum()
        shared = (shares[:, None, None] * w).sum(0)
    _, theta = local(range(len(clients)))
    return [accuracy([shared] * len(clients), clients), accuracy(list(theta), clients)]


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(*x.shape[:-1], 1)], -1)
