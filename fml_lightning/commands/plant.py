"""`fml plant`: simulated plants, live."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fml_lightning.commands.live_line import LiveLine
from fml_lightning.commands.process import log_to_stderr, parser, settings_of, stopped_by_signal
from fml_lightning.connectors.plant.plant import Plant, Progress


def run(arguments: Sequence[str]) -> int:
    """Publish until the simulated time is over, or until a signal."""
    options = parser("plant")
    options.add_class_arguments(Plant, as_group=False)
    settings = settings_of(options, arguments)
    plant = Plant(**settings)
    log_to_stderr()
    stop = threading.Event()
    print(f"simulating {', '.join(plant.site_names)} at {plant.connection.address}", flush=True)
    with stopped_by_signal(stop.set), LiveLine() as line:
        progress = plant.run(stop, lambda progress: line.show(lambda: _describe(progress)))
    print(f"published {progress.published} messages, {progress.acknowledged} acknowledged", flush=True)
    return 0


def _describe(progress: Progress) -> str:
    behind = f", {progress.behind:.1f} s behind" if progress.behind > 0.1 else ""
    return f"{progress.seconds:,.1f} s simulated, {progress.published:,} messages published{behind}"
