"""The normal distance: a window is an anomaly that lies far from a machine's normal windows.

Mahalanobis, On the Generalized Distance in Statistics, 1936. A few windows make no covariance, so it is shrunk
to that of other machines: Friedman, Regularized Discriminant Analysis, Journal of the American Statistical
Association 84, 1989. https://doi.org/10.1080/01621459.1989.10478752
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.inner_loop import InnerLoop, last
from fml_lightning.errors import UserError
from fml_lightning.learners.learner import Learner
from fml_lightning.learners.optimizers import OptimizerFactory
from fml_lightning.objectives import Objective, Reconstruction
from fml_lightning.objectives.normal_windows import normal_windows
from fml_lightning.params import stack
from fml_lightning.types import Episode, Examples, Params


def sgd(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with step size 0.1: the covariance is a running mean over about ten episodes."""
    return torch.optim.SGD(params, lr=0.1)


class NormalState(nn.Module):
    """Normal windows as an autoencoder: its output misses a window by its whitened distance from the mean.

    So the mean squared error of `Reconstruction` is the squared Mahalanobis distance over the number of features.

    Args:
        features: numbers that a window has, F.

    Shape: (N, F) → (N, F).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.covariance = nn.Parameter(torch.eye(features))
        self.mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.whitening = nn.Parameter(torch.eye(features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Windows less their whitened distance, x − W(x − mean)."""
        if x.shape[1:] != self.mean.shape:
            raise UserError(
                f"NormalDistance: expected {len(self.mean)} features of a window, got {tuple(x.shape[1:])}; set"
                " its features to what the data have"
            )
        return x - (x - self.mean) @ self.whitening.T


class NormalDistance(Learner):
    """Normal or not, by the Mahalanobis distance from the normal support windows; it knows no faults.

    Training follows the covariance of normal windows within machines, Σ += rate · (S − Σ), S being that of an
    episode; a Federation averages it over sites. A machine takes the mean of its normal support windows, and
    ((n − 1) · S + ν · Σ) / (n − 1 + ν) as covariance, ν being `prior` windows for each feature: where a few
    windows weigh more, they look much more normal than any other.

    Args:
        features: numbers that a window has, F.
        prior: how many windows of the machine the other machines' covariance is worth, for each feature; above 0.
        ridge: share of the covariance that is exchanged for the mean variance in all directions, in (0, 1].
        normal: the label of the normal class: that of the data's `episodes.normal`, or 0 where every other class
            is an anomaly.
        objective: the threshold and the metrics; unless you say otherwise `Reconstruction`, with thrice the
            largest support error as threshold.
        optimizer: its step size is the rate; SGD with 0.1 unless you say otherwise.
    """

    net: NormalState

    def __init__(
        self,
        features: int,
        prior: float = 5.0,
        ridge: float = 0.05,
        normal: int = 0,
        objective: Objective | None = None,
        optimizer: OptimizerFactory = sgd,
    ) -> None:
        if features < 1 or not prior > 0 or not 0 < ridge <= 1:
            raise UserError(
                "NormalDistance: expected features of at least 1, prior > 0 and ridge in (0, 1], got"
                f" {features}, {prior} and {ridge}"
            )
        super().__init__(
            NormalState(features), objective or Reconstruction(quantile=1.0, margin=3.0), optimizer=optimizer
        )
        self.prior = prior
        self.ridge = ridge
        self.normal = normal

    @property
    def params(self) -> Params:
        """Mean 0, and the whitening of the other machines' covariance."""
        covariance = self.net.covariance.detach()
        return {**super().params, "whitening": whitening(covariance[None], self.ridge)[0]}

    def adapted_names(self, params: Params, inner_loop: InnerLoop) -> list[str]:
        """Mean and whitening; `inner_loop` is not used."""
        return ["mean", "whitening"]

    def trajectory(
        self, params: Params, support: Examples, inner_loop: InnerLoop, *, create_graph: bool = False
    ) -> Iterator[Params]:
        """The parameters with mean and whitening of each task's normal support windows.

        Raises:
            UserError: a task has no normal support window.
        """
        with torch.no_grad():
            mean, scatter, count = self._scatter(support)
            worth = self.prior * len(params["mean"])
            covariance = (worth * params["covariance"] + scatter) / (count - 1 + worth)[:, None, None]
            own = {"mean": mean, "whitening": whitening(covariance, self.ridge)}
        yield {**stack(params, support.tasks), **own}

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The mean query loss, and Σ − S.

        Raises:
            UserError: no task has two normal windows.
        """
        with torch.no_grad():
            adapted = last(self.trajectory(self.params, episode.support, self.adaptation))
            loss = self.objective.loss(self.outputs(adapted, episode.query.x), episode.query).mean()
            _, scatter, count = self._scatter(episode.pooled())
            free = (count - 1).sum()
            if free < 1:
                raise UserError("NormalDistance: expected two normal windows of a machine; raise shots or queries")
            return loss, {"net.covariance": self.net.covariance - scatter.sum(0) / free}

    def _scatter(self, examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (T, F), sum of products about it (T, F, F), and number (T,) of each task's normal windows."""
        normal = normal_windows(examples.y, examples.mask, self.normal, type(self).__name__)
        count = normal.sum(1)
        kept = normal.to(examples.x)[..., None]  # (T, N, 1)
        mean = (kept * examples.x).sum(1) / count[:, None]
        away = kept * (examples.x - mean[:, None])
        return mean, away.mT @ away, count


def whitening(covariance: Tensor, ridge: float) -> Tensor:
    """The symmetric W with W·Σ·W = 1, Σ being a covariance, some of it exchanged for its mean variance: (T, F, F).

    >>> whitening(torch.diag(torch.tensor([4.0, 4.0]))[None], 0.5)
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    level = values.mean(-1, keepdim=True)
    mixed = (1 - ridge) * values + ridge * level
    smallest = torch.finfo(torch.float32).tiny  # all windows alike
    root: Tensor = (vectors * mixed.clamp(min=smallest).rsqrt()[..., None, :]) @ vectors.mT
    return root.to(covariance)
