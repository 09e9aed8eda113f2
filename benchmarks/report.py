"""What every benchmark does with its rows: measure, print, and write them down."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

RESULTS = Path(__file__).parent / "results"


class Spent:
    """Seconds of wall and of this process's CPU time."""

    wall = 0.0
    cpu = 0.0


@contextmanager
def measured() -> Iterator[Spent]:
    """Time what happens inside."""
    spent = Spent()
    wall, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu


def quiet_trainer(rounds: int) -> Trainer:
    """A Trainer of some rounds on the CPU that shows, keeps and validates nothing."""
    from lightning.pytorch import Trainer  # here, because some measure processes that have no torch

    return Trainer(
        max_steps=rounds,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a Markdown table, with the columns of the longest."""
    widest = max(rows, key=lambda row: len(row))
    keys = list(widest)
    print("| " + " | ".join(keys) + " |")
    print("|" + "---|" * len(keys))
    for row in rows:
        print("| " + " | ".join(str(row.get(key, "")) for key in keys) + " |")


def write(name: str, rows: Sequence[Mapping[str, Any]], **settings: Any) -> Path:
    """Write benchmarks/results/NAME.json: settings, hardware, rows."""
    import torch  # here, because some measure processes that have no torch

    hardware = {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "hardware": hardware, "rows": rows}, indent=2) + "\n")
    return path
