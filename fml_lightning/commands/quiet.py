"""Silence for what nobody who runs a command can act on."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Silence what Lightning says of hardware, tips and its own dependencies in every run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*LeafSpec.*",
        r".*does not have many workers.*",
        r"GPU available but not used.*",
        r"The dirpath has changed.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # torchmetrics loads it; a service needs no cache of its own
