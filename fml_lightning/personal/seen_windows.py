"""Raw windows as a model's network sees them: checked against its preprocessing, and preprocessed by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.preprocessing import TOLERANCE, Preprocessing
from fml_lightning.preprocessing.shaft_speed import SPEED

WHERE = "PersonalModel"
ROW_RATE = 1.0
"""Hz: where every sample is a window, as a row of a table is, no feature depends on the rate."""

Told = Mapping[str, float | Sequence[float] | NDArray[Any]] | NDArray[Any]
"""Numbers by name of all windows or of each, (N,); or (N, K), in the order of `Preprocessing.needs`."""


def features_of(
    preprocessing: Preprocessing,
    nameplate: Mapping[str, float],
    windows: Tensor | NDArray[Any],
    sample_rate: float | None,
    unit: str | None,
    channels: Sequence[str] | None,
    told: Told | None,
) -> NDArray[np.float32]:
    """What the network sees of raw windows, (N, F) or (N, …), float32; NaN of those with a NaN or an infinity.

    Args:
        preprocessing: as it was fitted, with the rate of the machine.
        nameplate: what is told of the machine, which counts where nothing is told of the windows.
        windows: (N, C, W), or (N, W) of one channel; (N, C) where every sample is a window.
        sample_rate: Hz; None: as expected.
        unit: of the samples; None: as expected.
        channels: of the windows, by name, in their order; None: as expected.
        told: of the windows, or of each of them.

    Raises:
        UserError: the windows are not as expected, or a number is not told.
    """
    values = _in_order(preprocessing, _samples(preprocessing, windows), channels)
    rate = _rate(preprocessing, sample_rate)
    preprocessing.check(values.shape[1], rate, unit, WHERE)
    length = preprocessing.windowing_at(rate).length
    if values.shape[2] != length:
        raise UserError(f"{WHERE}: expected windows of {length} samples, got {values.shape[2]}")
    is_finite = np.isfinite(values).all((1, 2))
    values = preprocessing.standardized(values)
    seen = preprocessing(values, rate, _told(preprocessing, nameplate, values, rate, told))
    if not is_finite.all():  # features need not hand them on, such as a median
        seen = np.where(is_finite.reshape(-1, *[1] * (seen.ndim - 1)), seen, np.float32(np.nan))
    return seen


def _samples(preprocessing: Preprocessing, windows: Tensor | NDArray[Any]) -> NDArray[np.float32]:
    given = np.asarray(windows.detach().cpu().numpy() if isinstance(windows, Tensor) else windows)
    if given.dtype.kind not in "fiu" or given.ndim not in (2, 3):
        raise UserError(
            f"{WHERE}: expected windows as numbers, (N, C, W) or (N, W) of one channel, got {given.dtype}"
            f" {given.shape}; a single window needs a leading axis: window[None]"
        )
    if given.ndim == 2:
        given = given[:, :, None] if preprocessing.windowing is None else given[:, None]
    with np.errstate(over="ignore"):  # infinite samples make features that are NaN
        return np.require(given, np.float32, ["C", "W"])  # torch takes no other array without a warning


def _in_order(
    preprocessing: Preprocessing, values: NDArray[np.float32], channels: Sequence[str] | None
) -> NDArray[np.float32]:
    """The windows with their channels in the expected order."""
    if channels is None:
        return values
    expected, got = preprocessing.channels, tuple(channels)
    if len(got) != values.shape[1] or len(set(got)) < len(got):
        raise UserError(f"{WHERE}: expected a name of each of {values.shape[1]} channels, got {', '.join(got)}")
    if not expected or got == expected:
        return values
    if set(got) != set(expected):
        raise UserError(f"{WHERE}: expected the channels {', '.join(expected)}, got {', '.join(got)}")
    return np.ascontiguousarray(values[:, [got.index(name) for name in expected]])


def _rate(preprocessing: Preprocessing, given: float | None) -> float:
    own = preprocessing.sample_rate
    if preprocessing.windowing is None and own is None:
        return ROW_RATE
    if given is None and own is None:
        raise UserError(
            f"{WHERE}: expected the sample rate of the windows, which the model does not know; give it"
        )
    rate = float(own if given is None else given)  # type: ignore[arg-type]
    if not 0 < rate < math.inf or (own is not None and abs(rate / own - 1) > TOLERANCE):
        expected = "a rate above 0" if own is None else f"windows at {own:g} Hz"
        raise UserError(f"{WHERE}: expected {expected}, got {rate:g} Hz; resample the signal before it is cut")
    return rate


def _told(
    preprocessing: Preprocessing,
    nameplate: Mapping[str, float],
    values: NDArray[np.float32],
    rate: float,
    given: Told | None,
) -> NDArray[np.float32] | None:
    """What is told of each window, (N, K) in the order of `needs`; None where nothing is needed."""
    needs, count = preprocessing.needs, len(values)
    if given is not None and not isinstance(given, Mapping):
        table = np.asarray(given, np.float32)
        if table.shape != (count, len(needs)):
            raise UserError(
                f"{WHERE}: expected told of shape {(count, len(needs))}, for {', '.join(needs) or 'nothing'}, got"
                f" {table.shape}"
            )
        return table if needs else None
    numbers: Mapping[str, Any] = given or {}
    if strange := sorted(numbers.keys() - set(needs)):
        raise UserError(
            f"{WHERE}: expected told of {', '.join(needs) or 'nothing'}, got {', '.join(map(str, strange))} too"
        )
    if lacking := [name for name in needs if name not in numbers and name not in nameplate]:
        raise UserError(
            f"{WHERE}: expected the operating condition {', '.join(lacking)}, got none; tell it with the windows"
        )
    if not needs:
        return None
    columns = [np.asarray(numbers.get(name, nameplate.get(name)), np.float32) for name in needs]
    for name, column in zip(needs, columns, strict=True):
        if column.shape not in ((), (count,)):
            raise UserError(
                f"{WHERE}: expected one number of {name}, or one of each of {count} windows, got {column.shape}"
            )
    told = np.stack([np.broadcast_to(column, count) for column in columns], axis=1)
    if preprocessing.shaft_speed is None or SPEED in numbers:
        return told
    ends = np.array([values.shape[2]])
    return np.concatenate(
        [told[:0], *(preprocessing.told_of(v, rate, t, ends, WHERE) for v, t in zip(values, told, strict=True))]
    )
