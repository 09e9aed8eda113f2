"""`fml plant`: simulated plants, live."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.process import LiveLine, log_to_stderr, parser, stopped_by_signal
from fml_lightning.connectors.plant import Plant, Progress


def run(arguments: Sequence[str]) -> int:
    """Publish until the simulated time is over, or until a signal."""
    options = parser("plant", COMMANDS["plant"])
    options.add_class_arguments(Plant)
    settings = options.instantiate_classes(options.parse_args(list(arguments)))
    settings.pop("config")
    plant = Plant(**settings)
    log_to_stderr()
    stop, line = threading.Event(), LiveLine()
    print(f"simulating {', '.join(plant.site_names)} at {plant.connection.address}", flush=True)
    with stopped_by_signal(stop.set):
        progress = plant.run(stop, lambda progress: line.show(lambda: _describe(progress)))
    line.end()
    print(f"published {progress.published} messages, {progress.acknowledged} acknowledged", flush=True)
    return 0


def _describe(progress: Progress) -> str:
    behind = f", {progress.behind:.1f} s behind" if progress.behind > 0.1 else ""
    return f"{progress.seconds:,.1f} s simulated, {progress.published:,} messages published{behind}"
