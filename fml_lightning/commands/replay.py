"""`fml replay`: a spool's messages, published again."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.process import LiveLine, log_to_stderr, parser, stopped_by_signal
from fml_lightning.connectors.replay import republish


def run(arguments: Sequence[str]) -> int:
    """Publish until the spool's end, or until a signal."""
    options = parser("replay", COMMANDS["replay"])
    options.add_function_arguments(republish, skip={"stop", "on_progress"})
    settings = options.instantiate_classes(options.parse_args(list(arguments)))
    settings.pop("config")
    log_to_stderr()
    stop, line = threading.Event(), LiveLine()
    with stopped_by_signal(stop.set):
        published = republish(
            **settings, stop=stop, on_progress=lambda count: line.show(lambda: f"{count:,} messages published")
        )
    line.end()
    print(f"published {published} messages of {settings.folder}", flush=True)
    return 0
