"""What an exported file tells of itself, as JSON: what windows it takes, and whose model it is."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

import fml_lightning
from fml_lightning.export.graph import Graph
from fml_lightning.export.seen_windows import rate_of
from fml_lightning.objectives import Classification
from fml_lightning.personal import PersonalModel
from fml_lightning.personal.reading import THRESHOLD
from fml_lightning.personal.registry import CARD, Version, digest

KEY = "fml_lightning"
"""The entry of ONNX's custom metadata, and the extra file of a PT2, that holds the JSON."""
FORMAT = 1

Said = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Outputs (N, …) and scores (N,) of windows."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What an exported file tells of itself."""

    format: int = FORMAT
    """Of this description."""
    package: str = fml_lightning.__version__
    """Version of the package that wrote it."""
    site: str
    machine: str
    version: str
    """Of the machine's model, such as `v3`; empty of a model that is in no registry."""
    objective: str
    """The class that says what `outputs` are, such as `Reconstruction`."""
    outputs: Literal["probabilities", "numbers"]
    """Whether they are the probabilities of `classes`, (N, C)."""
    classes: tuple[str, ...]
    """Their names; a number stands for one that nobody has named."""
    normal: str
    """The class of normal operation; empty where nobody says which it is."""
    limit: float | None
    """Of outputs that are numbers, beyond which of them a window is not normal; None where nobody says."""
    threshold: float | None
    """The model takes a window of a larger `score` for a fault; None where it gives no score."""
    sample_rate: float | None
    """Hz of the windows, which the graph cannot see; None where it does not matter."""
    unit: str | None
    """Of the samples; None where nobody says."""
    channels: tuple[str, ...]
    """Names of the channels, in their order; none: one channel, whatever its name is."""
    window_shape: tuple[int, ...]
    """Of one window: channels and samples; of a model without preprocessing that of its features."""
    window_length: int
    """Samples of a window, the last number of its shape."""
    told: tuple[str, ...]
    """What is to be told of each window beside its samples, in the order of the input `told`; none: there is no
    such input."""
    nameplate: dict[str, float]
    """What is told of the machine, which is part of the graph."""
    resample: bool
    """Whether the model was made of signals that were resampled to `sample_rate`; the graph does not do it."""
    card_sha256: str
    """SHA-256 of the card's file in the registry; empty of a model that is in none."""
    model_sha256: str
    """SHA-256 of the personal model's file, as its card tells it."""


def metadata_of(model: PersonalModel, graph: Graph, version: Version | None, said: Said) -> Metadata:
    """What the file of a model's graph tells of itself.

    Args:
        model: the model.
        graph: its graph.
        version: where the model is in a registry; None where it is in none.
        said: what it says of some windows.
    """
    seen = model.preprocessing
    outputs, score = said
    classes, is_class = model.classes, isinstance(model.objective, Classification) and outputs.ndim == 2
    if is_class:
        classes = (*classes, *map(str, range(len(classes), outputs.shape[1])))
    return Metadata(
        site=model.site if version is None else version.site,
        machine=model.machine if version is None else version.machine,
        version="" if version is None else version.name,
        objective=type(model.objective).__name__,
        outputs="probabilities" if is_class else "numbers",
        classes=classes,
        normal="" if graph.normal is None else classes[graph.normal],
        limit=graph.limit,
        threshold=THRESHOLD if np.isfinite(score).any() else None,
        sample_rate=None if seen is None or seen.windowing is None else rate_of(seen),
        unit=None if seen is None else seen.unit,
        channels=() if seen is None else seen.channels,
        window_shape=graph.window,
        window_length=graph.window[-1] if graph.window else 1,
        told=graph.told,
        nameplate={} if seen is None else {n: model.told[n] for n in seen.needs if n in model.told},
        resample=seen is not None and seen.resample,
        card_sha256="" if version is None else digest(version.folder / CARD),
        model_sha256="" if version is None else version.card.sha256,
    )
