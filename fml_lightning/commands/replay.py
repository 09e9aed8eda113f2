"""`fml replay`: a spool's messages, published again."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fml_lightning.commands.live_line import LiveLine
from fml_lightning.commands.process import log_to_stderr, parser, settings_of, stopped_by_signal
from fml_lightning.connectors.plant.republish import republish


def run(arguments: Sequence[str]) -> int:
    """Publish until the spool's end, or until a signal."""
    options = parser("replay")
    options.add_function_arguments(republish, as_group=False, skip={"stop", "on_progress"})
    settings = settings_of(options, arguments)
    log_to_stderr()
    stop = threading.Event()
    with stopped_by_signal(stop.set), LiveLine() as line:
        published = republish(
            **settings, stop=stop, on_progress=lambda count: line.show(lambda: f"{count:,} messages published")
        )
    print(f"published {published} messages of {settings['spool']}", flush=True)
    return 0
