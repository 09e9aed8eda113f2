"""The windows that an exported file is tried on, as the user's own are not at hand: what sensors send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fml_lightning.bearing import Bearing
from fml_lightning.export.graph import Graph
from fml_lightning.export.seen_windows import rate_of
from fml_lightning.personal import PersonalModel
from fml_lightning.preprocessing import Preprocessing, RawWindows, Standardize, Statistics
from fml_lightning.preprocessing.shaft_speed import SPEED

SEED = 0
EACH = 4
"""Windows of each kind."""
ORDERS = Bearing.named("6205").inputs
"""Of a bearing, where the model does not say whose it is told."""
SPEEDS = 2.0 ** np.arange(0, 11, 0.25)
"""Hz; among these are speeds for which features of orders are numbers."""
GAINS = 10.0 ** np.arange(-4, 5)
"""Among these is the loudness of the trial's windows."""


@dataclass(frozen=True)
class Trial:
    """Windows, and what they are for errors."""

    kinds: tuple[str, ...]
    """What each window is."""
    windows: NDArray[np.float32]
    """(N, …)."""
    told: NDArray[np.float32] | None
    """(N, K); None where nothing is to be told."""

    def parts(self) -> Iterator[slice]:
        """A window alone, two of them, and all."""
        yield from (slice(0, 1), slice(1, 3), slice(0, len(self.windows)))


def trial_of(model: PersonalModel, graph: Graph) -> Trial:
    """The windows for a model: as loud as those it was made of, as far as it tells that."""
    rng = np.random.default_rng(SEED)
    told = _told(model, graph, rng)
    if model.preprocessing is None:
        shapes = {"noise": rng.normal(size=(3 * EACH, *graph.window))}
    else:
        shapes = _shapes(rng, *graph.window)
    level, gain = _level_and_gain(model, graph, shapes["noise"], told, rng)
    made = {kind: level + gain * shape for kind, shape in shapes.items()}
    made["silence"] = np.zeros((1, *graph.window))
    for value in (np.nan, np.inf):
        made[f"a window with {value}"] = broken = made["noise"][:3].copy()
        for window, place in zip(broken, (0, broken[0].size // 2, -1), strict=True):
            window.reshape(-1)[place] = value
    kinds = tuple(kind for kind, windows in made.items() for _ in windows)
    windows = np.concatenate(list(made.values())).astype(np.float32)
    rows = None if told is None else np.resize(told, (len(windows), told.shape[1]))
    return Trial(kinds, windows, rows)


def _shapes(rng: np.random.Generator, channels: int, length: int) -> dict[str, NDArray[np.float64]]:
    """Signals of a size of about 1, (EACH, C, W) of each kind."""
    size = (EACH, channels, length)
    noise = rng.normal(size=size)
    rates = rng.uniform(0.01, 0.4, size=(EACH, channels, 1))
    tones = np.sin(2 * np.pi * rates * np.arange(length)) + 0.03 * rng.normal(size=size)
    shocks = 0.1 * noise + 5 * (rng.random(size) < 0.01)
    walk = np.cumsum(rng.normal(size=size), axis=2) / np.sqrt(length) + 0.05 * noise
    return {
        "noise": noise,
        "loud noise": 3 * rng.normal(size=size),
        "tones in noise": tones,
        "shocks": shocks,
        "drift": walk,
        "a constant": np.broadcast_to(rng.normal(size=(EACH, channels, 1)), size),
        "clipping": np.clip(3 * rng.normal(size=size), -1, 1),
    }


def _level_and_gain(
    model: PersonalModel,
    graph: Graph,
    noise: NDArray[np.float64],
    told: NDArray[np.float32] | None,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64] | float, NDArray[np.float64] | float]:
    """Mean and deviation of the windows, or of each channel, (C, 1), as far as the model tells them."""
    seen = model.preprocessing
    if seen is None:
        return model.centre.double().numpy(), 1.0
    standardize = seen.standardize
    if standardize is not None and standardize.of == "channels" and standardize.statistics is not None:
        mean, deviation = _columns(standardize, standardize.statistics, list(seen.channels), rng)
        return mean[:, None], deviation[:, None]
    if isinstance(seen.features, RawWindows) or not model.centre.any():
        return 0.0, 1.0
    return 0.0, _gain(model, graph, noise, told)


def _gain(
    model: PersonalModel, graph: Graph, noise: NDArray[np.float64], told: NDArray[np.float32] | None
) -> float:
    """The factor with which noise is nearest to the centre of the model's features."""
    assert graph.seen is not None
    rows = None if told is None else torch.from_numpy(np.resize(told, (len(noise), told.shape[1])))
    with torch.no_grad():
        away = [
            (graph.seen(torch.from_numpy((gain * noise).astype(np.float32)), rows) - model.centre)
            .abs()
            .nanmedian()
            for gain in GAINS
        ]
    return float(GAINS[int(np.nanargmin([float(each) for each in away]))])


def _told(model: PersonalModel, graph: Graph, rng: np.random.Generator) -> NDArray[np.float32] | None:
    """Rows of what is to be told, about as large as the model has seen, (EACH, K); None where that is nothing."""
    seen = model.preprocessing
    if seen is None or not graph.told:
        return None
    told = {name: ORDERS.get(name, 1.0) * (1 + 0.02 * rng.normal(size=EACH)) for name in seen.features.needs}
    if SPEED in told:
        told[SPEED] = _speeds(model, told, rng)
    told |= _inputs(model, seen, rng)
    return np.stack([told[name] for name in graph.told], 1).astype(np.float32)


def _inputs(model: PersonalModel, seen: Preprocessing, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Values of the inputs, by name."""
    if not (names := seen.inputs):
        return {}
    mean, deviation = np.ones(len(names)), np.full(len(names), 0.25)
    standardize = seen.standardize
    if standardize is not None and standardize.of == "features" and standardize.statistics is not None:
        mean, deviation = _columns(standardize, standardize.statistics, list(names), rng)
    elif model.centre.ndim == 1 and model.centre.any():
        mean = model.centre[-len(names) :].double().numpy()
        deviation = np.abs(mean) / 4
    return dict(zip(names, (mean + deviation * rng.normal(size=(EACH, len(names)))).T, strict=True))


def _speeds(
    model: PersonalModel, told: Mapping[str, NDArray[np.float64]], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Speeds, evenly among those for which the features of noise are numbers; (EACH,)."""
    others = {name: np.repeat(values[:1], len(SPEEDS)) for name, values in told.items()}
    found = _features(model, {**others, SPEED: SPEEDS}, rng)
    known = SPEEDS[np.isfinite(found).all(1)]
    places = np.linspace(0, len(known) - 1, EACH + 2).round().astype(int)[1:-1]
    return np.take(known, places) if len(known) else told[SPEED]


def _features(
    model: PersonalModel, told: Mapping[str, NDArray[np.float64]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The features of noise of which the model is told so much, (n, F)."""
    seen = model.preprocessing
    assert seen is not None
    known = {name: np.full(EACH, value) for name, value in model.told.items()} | dict(told)
    rows = np.stack([np.resize(known[name], len(told[SPEED])) for name in seen.features.needs], 1)
    rate = rate_of(seen)
    noise = rng.normal(size=(len(rows), 1, seen.windowing_at(rate).length)).astype(np.float32)
    return seen.features.of_channels(noise, rate, rows.astype(np.float32))


def _columns(
    standardize: Standardize, statistics: Statistics, names: list[str], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each of the last columns, which have names; of the condition's its values."""
    own = [name for name in names if name != standardize.condition]
    mean, deviation = (
        np.asarray(rows[0], np.float64)[statistics.columns - len(own) :]
        for rows in (statistics.mean, statistics.deviation)
    )
    if standardize.condition is None:
        return mean, deviation
    borders = np.asarray(statistics.borders, np.float64)
    width = standardize.width
    at = names.index(standardize.condition)
    centre, spread = (borders.mean(), np.ptp(borders) + width) if len(borders) else (0.0, width)
    return np.insert(mean, at, centre), np.insert(deviation, at, spread)
