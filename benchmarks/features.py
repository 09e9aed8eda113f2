"""Features of windows of 8,192 samples: processor time on one core, in batches.

    python -m benchmarks.features

Each kind of features is taken of the same windows of noise, several times; the fastest counts, as other work on
the machine only ever adds to it.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.report import measured, print_table, write
from fml_lightning.preprocessing import (
    Cepstrum,
    FaultLines,
    Features,
    LogBandPowers,
    OrderSpectrum,
    SpectralKurtosis,
    TimeDomain,
)

RATE = 12_000.0
LENGTH = 8192
GOAL = 100.0
"""Microseconds a window that `FaultLines` may take."""
KINDS: dict[str, Features] = {
    "FaultLines, 3 bands": FaultLines("6205"),
    "FaultLines, 3 bands, as no_labels.yaml": FaultLines(
        "6205", statistics=["median", "kurtosis", "variance", "level"]
    ),
    "FaultLines, kurtogram": FaultLines("6205", bands="kurtogram"),
    "OrderSpectrum, 3 bands": OrderSpectrum(),
    "OrderSpectrum, signal": OrderSpectrum(bands=()),
    "Cepstrum": Cepstrum(),
    "SpectralKurtosis": SpectralKurtosis(),
    "LogBandPowers": LogBandPowers(),
    "TimeDomain": TimeDomain(),
}


def main() -> None:
    """Measure, print a table, write results/features.json."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--windows", type=int, default=1024, help="in a batch")
    arguments.add_argument("--repeats", type=int, default=20)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    windows = np.random.default_rng(0).normal(size=(options.windows, LENGTH)).astype(np.float32)
    rows = []
    for name, features in KINDS.items():
        told = np.full((options.windows, 1), 29.2, np.float32) if features.needs else None
        seconds = []
        for _ in range(options.repeats + 1):  # the first compiles
            with measured() as spent:
                features(windows, RATE, told)
            seconds.append(spent.cpu)
        fastest = min(seconds[1:]) / options.windows * 1e6
        rows.append(
            {"features": name, "columns": len(features.columns(LENGTH, RATE)), "µs a window": round(fastest, 1)}
        )
    print_table(rows)
    write("features", rows, length=LENGTH, sample_rate=RATE, goal_microseconds=GOAL, **vars(options))


if __name__ == "__main__":
    main()
