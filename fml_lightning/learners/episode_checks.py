"""What a learner refuses of its data: batches that are no episodes, values that are not finite."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from fml_lightning.adaptation.batch_norm import batch_statistics
from fml_lightning.errors import UserError
from fml_lightning.learners.given_loaders import given_loaders
from fml_lightning.types import Episode, Examples


def refuse_other_batches(batch: object, learner: str) -> None:
    """Refuse a batch that is no episode.

    Args:
        batch: what a dataloader yielded.
        learner: the learner's name, for the error.

    Raises:
        UserError: it is something else; saying what, and what to do.
    """
    if isinstance(batch, Episode):
        return
    hint = (
        "let the dataset return Episode(support=Examples(x, y), query=Examples(x, y)) with a leading task axis,"
        " and the DataLoader have batch_size=None"
    )
    parts = list(batch.values()) if isinstance(batch, dict) else batch
    if isinstance(parts, list | tuple) and parts and all(isinstance(part, Episode) for part in parts):
        hint = (
            "an Episode is a batch of stacked tasks already: set the DataLoader's batch_size=None, and give the"
            " Trainer one dataloader to train on, not a list or dict of them"
        )
    raise UserError(f"{learner}: expected an Episode from the dataloader, got {describe(batch)}; {hint}")


def refuse_bare_episodes(trainer: Trainer, learner: str) -> None:
    """Refuse an episode, or a list, tuple or dict of episodes, at the place of a dataloader.

    Lightning takes a list or dict for several dataloaders, and an episode for none.

    Raises:
        UserError: saying how to pass them.
    """
    for given in given_loaders(trainer):
        parts = list(given.values()) if isinstance(given, dict) else given
        alone = isinstance(given, Episode)
        if alone or (isinstance(parts, list | tuple) and any(isinstance(part, Episode) for part in parts)):
            got = "an Episode" if alone else f"a bare {type(given).__name__} of episodes"
            raise UserError(
                f"{learner}: expected a dataloader of episodes, got {got}; pass"
                " torch.utils.data.DataLoader([episode, ...], batch_size=None)"
            )


def refuse_other_examples(examples: object, learner: str) -> Examples:
    """The support or query set, if it is one.

    Raises:
        UserError: it is something else; saying what, and what to do.
    """
    if isinstance(examples, Examples):
        return examples
    raise UserError(
        f"{learner}: expected the Examples of a support set, got {describe(examples)}; make them with"
        " Examples(x, y), of shapes (T, S, ...) and (T, S)"
    )


def refuse_padding(examples: Examples, net: nn.Module) -> None:
    """Refuse padded examples for a network that normalizes with the statistics of the set at hand.

    Raises:
        UserError: naming the layer.
    """
    if examples.mask is not None and (layer := batch_statistics(net)) is not None:
        raise UserError(
            f"{type(net).__name__}: layer {layer!r} normalizes with the statistics of the set at hand, which"
            " padding of ragged tasks would falsify; use batch_norm: frozen, LayerNorm or GroupNorm"
        )


def describe(value: object) -> str:
    """The kind of a value and of what it holds, in a few words.

    >>> describe((torch.zeros(8, 5), torch.zeros(8)))
    'a tuple of (Tensor (8, 5), Tensor (8,))'
    """
    if isinstance(value, dict):
        return f"a dict of {', '.join(f'{key}: {_brief(part)}' for key, part in list(value.items())[:4])}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of ({', '.join(_brief(part) for part in value[:4])})"
    return f"a {_brief(value)}"


def _brief(value: object) -> str:
    return f"Tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def not_finite(examples: Examples) -> str | None:
    """Where windows or targets hold a NaN or an infinity, if they do."""
    for what, values in (("features", examples.x), ("targets", examples.y)):
        bad = ~torch.isfinite(values)
        if bad.any():
            task, window, *_ = bad.nonzero()[0].tolist()
            where = f"the {what} of task {task}, window {window}"
            return f"{where} hold NaN or infinite values; repair or drop the window"
    return None
