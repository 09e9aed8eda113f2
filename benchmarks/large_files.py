"""Data larger than memory: the peak memory of `fml fit` over many gigabytes of three-axis recordings in files.

    python -m benchmarks.large_files --gigabytes 20

Three training sites of two machines and an unseen one, two classes each. A recording of 100 MB is written once for
each class; all files are hard links to the two, so that `--gigabytes` of files take little room on the disk, while
`fml fit` reads every one of them.

Prints the table; writes benchmarks/results/large_files.json. Exits with 1 if a peak reaches 2 GiB.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.report import measured, print_table, write

MOST = 2.0
"""GiB that the peak has to stay below."""
RATE = 25_600
ROWS = 8_333_333
"""Samples of three channels, float32, that take 100 MB."""
CHANNELS = ["acc_x", "acc_y", "acc_z"]
MACHINES = [f"plant{site}/machine{machine}" for site in range(1, 5) for machine in (1, 2)]

CONFIG = """
seed_everything: 0
model:
  learner:
    class_path: fml_lightning.MAML
    init_args:
      net: {{class_path: fml_lightning.MLP, init_args: {{in_features: 48, out_features: 2}}}}
  local_steps: 5
data:
  class_path: fml_lightning.datamodules.Files
  init_args:
    files: {root}/{{site}}/{{machine}}/{{label}}_*.{kind}
    channels: {channels}
    sample_rate: 25600
    unseen: [plant4]
    windowing: {{length: 4096, hop: 4096}}
    features: {{class_path: fml_lightning.preprocessing.LogBandPowers, init_args: {{bands: 16}}}}
trainer: {{max_steps: 4, check_val_every_n_epoch: 2, enable_progress_bar: false}}
"""


def signals() -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """A recording of each class, (n, 3): noise, and noise with a tone."""
    rng = np.random.default_rng(0)
    for label, level in (("normal", 0.0), ("ball", 0.5)):
        values = rng.standard_normal((ROWS, 3), np.float32)
        values += np.float32(level) * np.sin(np.arange(ROWS, dtype=np.float32) % 100 * 2 * np.pi / 25)[:, None]
        yield label, values


def make(root: Path, kind: str, gigabytes: float) -> tuple[int, float]:
    """Write the files; how many there are, and their size in GB."""
    each = max(1, round(gigabytes * 1e9 / (12 * ROWS) / (2 * len(MACHINES))))
    count, size = 0, 0
    for label, values in signals():
        original = root / f"{label}.{kind}"
        if kind == "npy":
            np.save(original, values)
        else:
            pl.DataFrame(values, schema=CHANNELS).write_parquet(original, compression="uncompressed")
        for machine in MACHINES:
            (root / machine).mkdir(parents=True, exist_ok=True)
            for i in range(each):
                os.link(original, root / machine / f"{label}_{i}.{kind}")
        count += each * len(MACHINES)
        size += each * len(MACHINES) * original.stat().st_size
    return count, size / 1e9


def fit(root: Path, kind: str) -> dict[str, float]:
    """Run `fml fit` over the files: its seconds, and the peak of its memory in GiB."""
    channels = CHANNELS if kind == "parquet" else [0, 1, 2]
    config = root / "large.yaml"
    config.write_text(CONFIG.format(root=root, kind=kind, channels=channels))
    command = [sys.executable, "-m", "fml_lightning", "fit", "--config", str(config)]
    with measured() as spent:
        subprocess.run([*command, "--trainer.default_root_dir", str(root / "runs")], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"seconds": round(spent.wall), "peak_gib": round(peak, 2)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 if too much memory was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--kind", choices=("parquet", "npy"), default="parquet")
    parser.add_argument(
        "--folder", help="where to write them; the default is the system's folder for temporary files"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files, size = make(Path(folder), options.kind, options.gigabytes)
        row = {
            "kind": options.kind,
            "files": files,
            "gigabytes": round(size, 1),
            **fit(Path(folder), options.kind),
        }
    print_table([row])
    write("large_files", [row], most_gib=MOST)
    return int(row["peak_gib"] >= MOST)


if __name__ == "__main__":
    sys.exit(main())
