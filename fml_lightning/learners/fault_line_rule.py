"""The fault line rule: what a vibration analyst does, as a learner that training leaves as it is.

Randall and Antoni, Rolling element bearing diagnostics - A tutorial, Mechanical Systems and Signal Processing 25,
2011. https://doi.org/10.1016/j.ymssp.2010.07.017
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fml_lightning.adaptation.inner_loop import InnerLoop, last
from fml_lightning.errors import UserError
from fml_lightning.learners.learner import Learner
from fml_lightning.learners.optimizers import OptimizerFactory, adam
from fml_lightning.objectives import Objective
from fml_lightning.objectives.normal_windows import normal_windows
from fml_lightning.params import stack
from fml_lightning.preprocessing.features import Features
from fml_lightning.types import Episode, Examples, Params

LINES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ball": ("*bsf_*", "2bsf-ftf_*", "2bsf+ftf_*"),
        "inner": ("*bpfi_*", "bpfi-x_*", "bpfi+x_*"),
        "outer": ("*bpfo_*",),
    }
)
"""Which columns of `FaultLines` speak for a fault: the harmonics of its order, and its first sidebands."""
STATISTICS = ("mean", "deviation")
"""What is known of a machine's normal state, by their names among its adapted parameters."""


class FaultLineScores(nn.Module):
    """How far each class's lines stand out from a machine's normal state: (N, F) → (N, C).

    The score of a fault is the largest of its columns, (x − mean) / (deviation + spread); the normal class has the
    threshold.

    Args:
        columns: name of each feature.
        classes: name of each class, `normal` among them.
        lines: patterns of the columns that speak for each of the other classes.
        threshold: a fault whose score is above it is believed.
        spread: added to the deviation, so that a column that hardly varies in a few windows does not decide.

    Raises:
        UserError: a class has no columns.
    """

    members: Tensor

    def __init__(
        self,
        columns: Sequence[str],
        classes: Sequence[str],
        lines: Mapping[str, Sequence[str]],
        threshold: float,
        spread: float,
    ) -> None:
        super().__init__()
        if "normal" not in classes or len(classes) < 2:
            raise UserError(
                f"FaultLineRule: expected classes with normal and a fault among them, got {', '.join(classes)}"
            )
        self.columns, self.classes = tuple(columns), tuple(classes)
        self.lines = {name: tuple(patterns) for name, patterns in lines.items()}
        self.normal = list(classes).index("normal")
        members = []
        for k, name in enumerate(classes):
            patterns = lines.get(name, ())
            members.append([any(fnmatchcase(column, p) for p in patterns) for column in columns])
            if k != self.normal and not any(members[k]):
                raise UserError(
                    f"FaultLineRule: expected columns that speak for the class {name!r}, none of {len(columns)}"
                    f" columns ({', '.join(columns[:3])}, ...) matches {', '.join(patterns) or 'no pattern'}; give"
                    " lines for it"
                )
        self.spread = spread
        self.register_buffer("members", torch.tensor(members), persistent=False)
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))
        self.mean = nn.Parameter(torch.zeros(len(columns)), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(len(columns)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, (N, C)."""
        if x.shape[1:] != self.mean.shape:
            raise UserError(
                f"FaultLineRule: expected {len(self.mean)} features of a window, as its `features` have, got"
                f" {tuple(x.shape[1:])}; give it the features of the data"
            )
        away = (x - self.mean) / (self.deviation + self.spread)
        scores = [
            away.masked_fill(~own, -torch.inf).amax(-1) if k != self.normal else self.threshold.expand(len(x))
            for k, own in enumerate(self.members)
        ]
        return torch.stack(scores, -1)


class FaultLineRule(Learner):
    """A window has the fault whose lines stand out most from the machine's normal windows, or none.

    To adapt is to take mean and deviation of the support windows of class `normal`; other support windows are not
    looked at. Nothing is trained: a round leaves the threshold as it is, so one is enough. Features are logs, as
    those of `FaultLines`, not standardized, or threshold and spread are in another unit.

    Args:
        features: what computes the data's features, whose columns have the names that `lines` match.
        classes: name of each label, as the data have them.
        lines: shell-style patterns of the columns that speak for each fault; as `LINES` unless you say otherwise.
        threshold: a fault is believed whose score is above it, in deviations.
        spread: added to each column's deviation, at least 0.
        length: samples of the data's windows.
        sample_rate: of the data, Hz.
        objective: the metrics; `Classification` unless you say otherwise.
        optimizer: what a Federation asks of every learner; it has nothing to do.
    """

    net: FaultLineScores

    def __init__(
        self,
        features: Features,
        classes: Sequence[str] = ("normal", "ball", "inner", "outer"),
        lines: Mapping[str, Sequence[str]] | None = None,
        threshold: float = 4.0,
        spread: float = 0.25,
        length: int = 8192,
        sample_rate: float = 12_000.0,
        objective: Objective | None = None,
        optimizer: OptimizerFactory = adam,
    ) -> None:
        if not spread >= 0:
            raise UserError(f"FaultLineRule: expected spread of at least 0, got {spread}")
        columns = [column.name for column in features.columns(length, sample_rate)]
        net = FaultLineScores(columns, classes, LINES if lines is None else lines, threshold, spread)
        super().__init__(net, objective, optimizer=optimizer)

    def adapted_names(self, params: Params, inner_loop: InnerLoop) -> list[str]:
        """Mean and deviation; `inner_loop` is not used."""
        return list(STATISTICS)

    def trajectory(
        self, params: Params, support: Examples, inner_loop: InnerLoop, *, create_graph: bool = False
    ) -> Iterator[Params]:
        """The parameters with mean and deviation of each task's normal support windows.

        Raises:
            UserError: a task has no normal support window.
        """
        normal = normal_windows(support.y, support.mask, self.net.normal, type(self).__name__)
        shares = (normal / normal.sum(1, keepdim=True)).to(support.x)[..., None]  # (T, S, 1)
        mean = (shares * support.x).sum(1)
        deviation = (shares * (support.x - mean[:, None]) ** 2).sum(1).sqrt()
        yield {**stack(params, support.tasks), "mean": mean, "deviation": deviation}

    def chunk_gradient(self, episode: Episode) -> tuple[Tensor, Params]:
        """The mean query loss, and no change."""
        with torch.no_grad():
            adapted = last(self.trajectory(self.params, episode.support, self.adaptation))
            loss = self.objective.loss(self.outputs(adapted, episode.query.x), episode.query).mean()
        return loss, {name: torch.zeros_like(p) for name, p in self.trained.items()}
