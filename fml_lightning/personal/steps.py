"""The number of inner steps, chosen on a share of the support windows where these are enough to tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fml_lightning.adaptation.inner_loop import InnerLoop
from fml_lightning.adaptation.network import in_mode
from fml_lightning.learners.learner import Learner
from fml_lightning.types import Episode, Examples, Params

ENOUGH = 12
"""Support windows of every class from which on a share of them is held out."""
HELD_OUT = 3
"""One window in so many is held out: the last in time."""
CLEARLY = 2.0
"""Standard errors by which the loss of another number of steps must be lower than that of the learner's own."""
FACTOR = 4
"""How many times the learner's own steps are tried at most."""


def chosen_steps(learner: Learner, episode: Episode) -> int | None:
    """How many steps lower the loss of held-out support windows most; None where they cannot tell.

    Another number than the learner's own is taken only if it is better by more than `CLEARLY` standard errors of
    the difference, over the held-out windows: few windows should not overrule what meta-training was made for. Windows
    of one class alone tell nothing of the others, and learners that adapt by other than steps have none to choose.

    Args:
        learner: in evaluation mode; it stays as it is.
        episode: of one task without padding, whose labels are classes.
    """
    support, own = episode.support, learner.adaptation.steps
    if own == 0 or learner.rates is not None or type(learner).adapt is not Learner.adapt:
        return None
    if support.y.ndim != 2 or support.y.is_floating_point() or support.mask is not None:
        return None
    labels = support.y[0]
    counts = torch.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or int(counts.min()) < ENOUGH:
        return None
    held = held_out(labels, None if episode.starts is None else episode.starts[0])
    fit, rest = (Examples(support.x[:, rows], support.y[:, rows]) for rows in (~held, held))
    longest = replace(learner.adaptation, steps=FACTOR * own)
    losses = torch.stack([_losses(learner, params, fit, rest) for params in _adapted(learner, fit, longest)])
    if not losses.isfinite().all():
        return None
    best = int(losses.mean(1).argmin())
    gains = losses[own] - losses[best]
    return best if float(gains.mean()) > CLEARLY * float(gains.std()) / len(gains) ** 0.5 else own


def held_out(labels: Tensor, starts: Tensor | None) -> Tensor:
    """Which windows of each class are held out: of n the last n // `HELD_OUT` in time, (S,).

    >>> held_out(torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([3, 1, 2, 1, 2, 3])).tolist()
    [True, False, False, False, False, True]

    Args:
        labels: (S,).
        starts: when each began, (S,); None: in their order.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in set(labels.tolist()):
        rows = (labels == label).nonzero()[:, 0].cpu()
        if starts is not None:
            rows = rows[starts.cpu()[rows].argsort(stable=True)]
        held[rows[len(rows) - len(rows) // HELD_OUT :]] = True
    return held.to(labels.device)


def _adapted(learner: Learner, support: Examples, longest: InnerLoop) -> Iterable[Params]:
    with in_mode(learner, training=False), torch.inference_mode(False), torch.enable_grad():
        for params in learner.trajectory(learner.params, support, longest):
            yield {name: p.detach() for name, p in params.items()}


def _losses(learner: Learner, params: Params, support: Examples, held: Examples) -> Tensor:
    """The loss of each held-out window, (H,)."""
    with torch.no_grad():
        outputs, _ = learner.query_outputs(params, Episode(support, held))
        each = Examples(held.x[0][:, None], held.y[0][:, None])
        return learner.objective.loss(outputs[0][:, None], each)
