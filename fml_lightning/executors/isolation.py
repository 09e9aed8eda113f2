"""The isolation of a site's work from settings of the process that it runs in.

A site gives the same update wherever it runs, so its work must not depend on what the server's Trainer has
switched on around it; and a site that changes a setting must not change the next site's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from fml_lightning.types import Params

SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], None]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
)
"""How settings of the process are read and set."""


@contextmanager
def isolated(params: Params) -> Iterator[None]:
    """Run a site's work without the server's autocast, inference mode and default dtype.

    Inside, gradients are on, and new tensors are float32, or float64 where the shared parameters are. Afterwards
    the settings are what they were before. The number of threads and whether algorithms must be deterministic are
    the user's choice for the whole process, so they hold at a site too.

    Args:
        params: the shared parameters.
    """
    before = [get() for get, _ in SETTINGS]
    dtype = torch.float64 if any(p.dtype == torch.float64 for p in params.values()) else torch.float32
    accelerator = torch.accelerator.current_accelerator()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in {"cpu", accelerator.type if accelerator else "cpu"}:
            stack.enter_context(torch.autocast(device, enabled=False))
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            for (get, set_), value in zip(SETTINGS, before, strict=True):
                if get() != value:
                    set_(value)
