"""Preprocessing: what turns a machine's signals into what the network sees, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.preprocessing.description import describe, from_description
from fml_lightning.preprocessing.features import Features, RawWindows
from fml_lightning.preprocessing.resampling import Resampling
from fml_lightning.preprocessing.shaft_speed import SPEED, ShaftSpeed
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.windowing import Windowing

TOLERANCE = 1e-3
"""Share by which a sample rate may differ from the expected one: clocks of sensors do."""
MOST_TAPS = 1000
"""The larger of the two numbers by whose ratio a signal is resampled, at most."""
SINGLE = Windowing(1, 1)
"""Every sample is a window."""


@dataclass(frozen=True)
class Preprocessing:
    """Channels, sample rate and unit that are expected; how signals are cut, and what is seen of a window.

    One object serves files, streams, personal models and exports: nothing is preprocessed in a second way.
    """

    windowing: Windowing | None = field(default_factory=Windowing)
    """How signals become windows; None: every sample is a window, as a row of ready features is."""
    features: Features = field(default_factory=LogBandPowers)
    """What the network sees of a window."""
    channels: tuple[str, ...] = ()
    """Names of the channels, in their order; none: one channel, whatever its name is."""
    sample_rate: float | None = None
    """Hz that every signal must have; None: any."""
    unit: str | None = None
    """The signals' unit, such as `g`; None: nobody says."""
    resample: bool = False
    """Bring signals of another rate to `sample_rate`, rather than refuse them."""
    inputs: tuple[str, ...] = ()
    """Names of operating conditions, such as `speed`, that the network sees beside the features, in order."""
    standardize: Standardize | None = None
    """Bring channels or features to mean 0 and deviation 1 of the training sites; None: leave them as they are."""
    shaft_speed: ShaftSpeed | None = None
    """Find the shaft's speed in the first channel, near the told `speed`; None: take the told one as it is."""

    def __post_init__(self) -> None:
        if self.sample_rate is not None and not 0 < self.sample_rate < math.inf:
            raise UserError(f"Preprocessing: expected a sample rate in Hz above 0, got {self.sample_rate}")
        if self.resample and self.sample_rate is None:
            raise UserError("Preprocessing: expected sample_rate with resample; say to which rate")
        for name, values in (("channels", self.channels), ("inputs", self.inputs)):
            if len(set(values)) < len(values) or "" in values:
                raise UserError(f"Preprocessing.{name}: expected names, each once, got {', '.join(values)}")
        if self.windowing is None and not isinstance(self.features, RawWindows):
            raise UserError(
                "Preprocessing: expected the features RawWindows where every sample is a window, got"
                f" {type(self.features).__name__}"
            )
        if self.standardize and self.standardize.of == "channels":
            self.standardize.check(self.channels, "channels")
            self._check_statistics(self.standardize)
        elif self.standardize:
            self.standardize.check(self.told_columns, "inputs" if self.windowing else "columns")
        self._check_raw_windows()
        if self.shaft_speed is not None and (self.windowing is None or SPEED not in self.needs):
            needed = f"windows, and features that need {SPEED} told, such as FaultLines without a fixed one"
            got = "rows" if self.windowing is None else f"{type(self.features).__name__}, for which none is told"
            raise UserError(f"shaft_speed: expected {needed}, got {got}; leave shaft_speed out")

    def _check_statistics(self, standardize: Standardize) -> None:
        """See that statistics of channels, where they are given, are of as many as there are."""
        if standardize.statistics is None or not self.channels:
            return
        expected = len(self.channels) - (standardize.condition is not None)
        if (got := len(standardize.statistics.mean[0])) != expected:
            raise UserError(f"Standardize: expected statistics of {expected} channels, got those of {got}")

    def _check_raw_windows(self) -> None:
        """See that raw windows of several channels, which are in no row, have no inputs beside them."""
        seen = len(self.channels)
        if self.standardize and self.standardize.of == "channels":
            seen -= self.standardize.condition is not None
        if not isinstance(self.features, RawWindows) or seen < 2 or self.windowing in (None, SINGLE):
            return
        if self.inputs:
            raise UserError("Preprocessing.inputs: expected features in a row beside them, got raw windows")
        if self.standardize and self.standardize.of == "features":
            raise UserError(
                "Standardize: expected features in a row, got raw windows; set standardize.of: channels"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what must be told of every window: what the features need, then the other inputs."""
        return tuple(dict.fromkeys((*self.features.needs, *self.inputs)))

    @property
    def told_columns(self) -> tuple[str, ...]:
        """Names of the last columns of what the network sees, as far as they have any: inputs, behind features.

        Where every sample is a window, its features are the channels.
        """
        return self.inputs if self.windowing is not None else (*self.channels, *self.inputs)

    def describe(self) -> dict[str, Any]:
        """As a mapping that JSON can hold, from which `from_description` makes it again."""
        description: dict[str, Any] = msgspec.to_builtins(self, enc_hook=describe)
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Preprocessing:
        """What `describe` described.

        Raises:
            UserError: it is no such description, or has a setting that this version does not know.
        """
        try:
            made = msgspec.convert(description, cls, dec_hook=lambda _, features: from_description(features))
        except msgspec.ValidationError as error:
            raise UserError(f"preprocessing: {error}") from error
        if unknown := _unknown(description, made.describe()):
            raise UserError(
                f"preprocessing: no setting {unknown:.60} in this version of the package; take a newer one"
            )
        return made

    def windowing_at(self, sample_rate: float) -> Windowing:
        """How a signal of a sample rate (Hz) is cut, in samples."""
        return SINGLE if self.windowing is None else self.windowing.at(sample_rate)

    def windowing_in_samples(self) -> Windowing:
        """How signals of the one expected sample rate are cut, in samples.

        Raises:
            UserError: windows are so many seconds long, and the sample rate is not told.
        """
        if self.windowing is not None and self.windowing.seconds is not None and self.sample_rate is None:
            raise UserError("windowing.seconds: expected the sample rate too, got none; set sample_rate")
        return self.windowing_at(self.sample_rate or 1.0)

    def check(self, channels: int, sample_rate: float, unit: str | None, where: str) -> None:
        """See that a signal is as expected.

        Args:
            channels: how many it has.
            sample_rate: Hz.
            unit: of the samples; None where nobody says.
            where: whose signal it is, for errors.

        Raises:
            UserError: the number of channels, the rate or the unit is another one.
        """
        expected = len(self.channels) or 1
        if channels != expected:
            names = f" ({', '.join(self.channels)})" if self.channels else "; name the channels to use"
            raise UserError(f"{where}: expected {expected} channels{names}, got {channels}")
        if unit is not None and self.unit is not None and unit != self.unit:
            raise UserError(
                f"{where}: expected samples in {self.unit}, got {unit}; convert them, or mend the unit"
            )
        if self._ratio(sample_rate, where) != 1 and not self.resample:
            raise UserError(
                f"{where}: expected {self.sample_rate:g} Hz, got {sample_rate:g} Hz; set resample: true to convert"
            )

    def takes(self, sample_rate: float) -> bool:
        """Whether signals of a sample rate (Hz) are as expected, or can be resampled."""
        try:
            return self._ratio(sample_rate) == 1 or self.resample
        except UserError:
            return False

    def rate(self, sample_rate: float) -> float:
        """The sample rate, Hz, of a signal after `signal`."""
        return sample_rate if self._ratio(sample_rate) == 1 else self.sample_rate or sample_rate

    def samples(self, count: int, sample_rate: float) -> int:
        """How many samples a signal of so many has after `signal`."""
        ratio = self._ratio(sample_rate)
        return -(-count * ratio.numerator // ratio.denominator)

    def resampling(self, sample_rate: float) -> Resampling:
        """How a signal of a sample rate (Hz) is brought to the expected one."""
        ratio = self._ratio(sample_rate)
        return Resampling(ratio.numerator, ratio.denominator)

    def signal(self, values: NDArray[np.float32], sample_rate: float) -> NDArray[np.float32]:
        """A signal (C, n) as it is cut: at the expected rate, by a filter against aliases, and standardized."""
        return self.standardized(self.resampling(sample_rate)(values))

    def standardized(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A signal (C, n), or windows (m, C, n), with each channel standardized, if so is said.

        The channel that tells the operating condition is left out then.
        """
        if self.standardize is None or self.standardize.of == "features":
            return values
        *windows, channels, samples = values.shape
        rows = np.swapaxes(values, -1, -2).reshape(-1, channels)
        table = self.standardize(rows, self.channels).reshape(*windows, samples, -1)
        return np.ascontiguousarray(np.swapaxes(table, -1, -2))

    def _ratio(self, sample_rate: float, where: str = "signal") -> Fraction:
        """The expected sample rate over another one."""
        wanted = self.sample_rate
        if wanted is None or abs(sample_rate / wanted - 1) <= TOLERANCE:
            return Fraction(1)
        ratio = Fraction(wanted / sample_rate).limit_denominator(MOST_TAPS)
        if self.resample and not (
            ratio.numerator <= MOST_TAPS and abs(ratio * sample_rate / wanted - 1) <= TOLERANCE
        ):
            raise UserError(
                f"{where}: {sample_rate:g} Hz cannot be brought to {wanted:g} Hz by a ratio of numbers up to"
                f" {MOST_TAPS}"
            )
        return ratio

    def cut(self, values: NDArray[np.float32], sample_rate: float) -> NDArray[np.float32]:
        """All whole windows of a signal, as a view: (C, n) → (windows, C, W)."""
        return self.windowing_at(sample_rate).cut(values)

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """What the network sees of windows: (n, C, W) → (n, F), or raw windows as (n, C, W).

        Args:
            windows: (n, C, W), cut from a signal after `signal`, or after `standardized`.
            sample_rate: Hz.
            told: of each window what `needs` names, (n, `len(self.needs)`); None where it names nothing.
        """
        if told is None:
            return self.finish(self.features.of_channels(windows, sample_rate))
        x = self.features.of_channels(windows, sample_rate, told[:, : len(self.features.needs)])
        return self.finish(x, self.inputs_among(told))

    def told_of(
        self,
        signal: NDArray[np.float32],
        sample_rate: float,
        told: NDArray[np.float32],
        ends: NDArray[np.intp],
        where: str,
    ) -> NDArray[np.float32]:
        """What is told of each window of a signal, (n, `len(self.needs)`), with the shaft's speed that is found.

        Args:
            signal: (C, samples), after `signal`, without a gap.
            sample_rate: Hz, of this signal.
            told: what `needs` names, (`len(self.needs)`,).
            ends: of each of n windows the sample after its last.
            where: whose signal it is, for errors.

        Raises:
            UserError: no speed near the told one is found.
        """
        told = np.tile(told, (len(ends), 1))
        if self.shaft_speed is None or not len(ends):
            return told
        column = self.needs.index(SPEED)
        nominal = float(told[0, column])
        for row, found in enumerate(self.shaft_speed.over(signal[0], sample_rate, nominal, ends)):
            if found.reason:
                raise UserError(
                    f"{where}: expected the shaft's speed in the signal near the told {nominal:.4g} Hz, found none"
                    f" up to {ends[row] / sample_rate:.1f} s: {found.reason}; correct the speed that is told, as"
                    " by the nameplate, or leave shaft_speed out"
                )
            told[row, column] = found.hz
        return told

    def inputs_among(self, told: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inputs, in their order, among what `needs` names."""
        return told[:, [self.needs.index(name) for name in self.inputs]]

    def finish(self, x: NDArray[np.float32], inputs: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Features (n, F) with the operating conditions of each window after them; standardized, if so is said."""
        if self.inputs:
            assert inputs is not None
            if x.ndim > 2:
                raise UserError("Preprocessing.inputs: expected features in a row beside them, got raw windows")
            x = np.concatenate([x, inputs], axis=1)
        if self.standardize is None or self.standardize.of == "channels":
            return x
        if x.ndim > 2:
            raise UserError("Standardize: expected features in a row, got raw windows; set of: channels")
        return self.standardize(x, self.told_columns)


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """The first key of a description that is not known, as in `standardize.of`; empty if all are."""
    for key, value in given.items():
        if key not in known:
            return str(key)
        # Features refuse arguments that they do not know by themselves.
        inner = known[key] if key != "features" and isinstance(value, Mapping) else None
        if isinstance(inner, Mapping) and (found := _unknown(value, inner)):
            return f"{key}.{found}"
    return ""
