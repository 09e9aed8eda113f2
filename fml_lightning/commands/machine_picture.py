"""A picture of one machine's data: signals, spectra, and its features against those of the fleet.

Where the shaft's speed and the bearing's geometry are told, the envelope's spectrum too, with the bearing's lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fml_lightning.bearing import INPUTS
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.order_spectrum import OrderSpectrum

SHOWN = 4096
"""Samples of a signal that are drawn."""
CLASSES = 8
"""Classes that are drawn, at most."""
REVOLUTIONS = 16
"""Of the shaft, in each of the windows whose envelope spectra are averaged."""
ORDERS = 12.0
"""The largest multiple of the shaft's speed that is drawn."""
BAND = (0.04, 0.46)
"""Whose envelope is drawn, as shares of the sample rate."""


def spread(machines: Sequence[MachineWindows]) -> NDArray[np.float32]:
    """The 5th, 50th and 95th percentile of each feature over all machines, (3, F)."""
    rows = np.concatenate([machine.early.rows for machine in machines])
    percentiles: NDArray[np.float32] = np.percentile(rows, (5, 50, 95), axis=0).astype(np.float32)
    return percentiles


def draw(
    site: str,
    machine: MachineWindows,
    recordings: Sequence[Recording],
    classes: Sequence[str],
    fleet: NDArray[np.float32],
    path: Path,
) -> None:
    """Write the picture of a machine to a PNG file.

    Args:
        site: its site's name.
        machine: its windows.
        recordings: what it recorded; none of a stream.
        classes: name of each of the fleet's labels.
        fleet: `spread` of all machines.
        path: of the file.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("pictures need matplotlib; pip install 'fml-lightning[plot]'") from error
    first = {recording.label: recording for recording in reversed(recordings)}
    turning = any(_is_told(recording) for recording in first.values())
    figure = Figure(figsize=(9, 10 if turning else 7.5), dpi=110, layout="constrained")
    signal, spectrum, *envelopes, features = figure.subplots(4 if turning else 3, 1)
    for label, recording in sorted(first.items())[:CLASSES]:
        values, rate = recording.load()[0], recording.sample_rate
        name = classes[label] if 0 <= label < len(classes) else "no class"
        if _is_told(recording):
            envelopes[0].plot(*envelope_spectrum(values, rate, recording.inputs["speed"]), lw=0.6, label=name)
        part = values[:SHOWN]
        signal.plot(np.arange(len(part)) / rate, part, lw=0.6, label=name)
        if len(values) >= 8:
            size = min(len(values), SHOWN)
            whole = values[: len(values) // size * size].reshape(-1, size)
            power = np.square(np.abs(np.fft.rfft((whole - whole.mean(1, keepdims=True)) * np.hanning(size)))).mean(
                0
            )
            spectrum.semilogy(np.fft.rfftfreq(size, 1 / rate)[1:], power[1:] + 1e-20, lw=0.6, label=name)
    signal.set_title(f"{site}/{machine.name}", loc="left", fontsize=10, parse_math=False)
    signal.set_xlabel("s")
    spectrum.set_xlabel("Hz")
    spectrum.set_ylabel("power")
    for axes in envelopes:
        told = next(recording.inputs for recording in first.values() if _is_told(recording))
        for name in INPUTS:
            order = told[name] * (2 if name == "bsf" else 1)  # a ball's fault strikes both races
            axes.axvline(order, color="0.6", lw=0.6, ls=":")
            axes.annotate(
                "2 bsf" if name == "bsf" else name, (order, 1), xycoords=("data", "axes fraction"), fontsize=7
            )
        axes.set_xlim(0, ORDERS)
        axes.set_xlabel("envelope, multiples of the shaft's speed")
    low, middle, high = fleet
    at = np.arange(len(middle))
    features.fill_between(at, low, high, color="0.85", label="90 % of the fleet")
    features.plot(at, middle, color="0.5", lw=0.8)
    names = machine.class_names(classes)
    for label in np.unique(machine.early.label)[:CLASSES]:
        own = machine.early.x[machine.early.label == label].reshape(-1, len(middle))
        name = names[label] if 0 <= label < len(names) else "no class"
        features.plot(at, np.median(own, axis=0), lw=0.8, label=name)
    features.set_xlabel("feature")
    for axes in (signal, spectrum, *envelopes, features):
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, frameon=False, loc="upper right")
    figure.savefig(path)


def envelope_spectrum(
    values: NDArray[np.float32], sample_rate: float, speed: float
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Orders up to `ORDERS`, and the mean amplitudes of the envelope's spectrum there.

    None of a signal that is too short, or sampled too slowly for them.

    Args:
        values: of one channel, (n,).
        sample_rate: Hz.
        speed: the shaft's, Hz.
    """
    low, high = (share * sample_rate for share in BAND)
    size = int(REVOLUTIONS * sample_rate / speed)
    if high - low <= ORDERS * speed or len(values) < size:  # the envelope is too slow, or the signal too short
        return np.empty(0), np.empty(0, np.float32)
    features = OrderSpectrum([(low, high)], highest=ORDERS, orders=int(ORDERS * REVOLUTIONS), speed=speed)
    windows = values[: len(values) // size * size].reshape(-1, size)
    orders = np.arange(1, features.orders + 1) / REVOLUTIONS
    return orders, np.exp(features(windows, sample_rate)).mean(0)


def _is_told(recording: Recording) -> bool:
    """Whether its shaft's speed and its bearing's orders are known."""
    return {"speed", *INPUTS} <= recording.inputs.keys() and recording.inputs["speed"] > 0
