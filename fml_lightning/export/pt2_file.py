"""PT2: a graph that torch loads without this package.

https://docs.pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray

from fml_lightning.export.metadata import KEY


def write(program: torch.export.ExportedProgram, metadata: str) -> bytes:
    """The file of a program, with its metadata as JSON in an extra file."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={KEY: metadata})
    return content.getvalue()


class OpenedPT2:
    """A file that can be run."""

    def __init__(self, content: bytes) -> None:
        extra = {KEY: ""}
        self._module = torch.export.load(io.BytesIO(content), extra_files=extra).module()
        self.metadata = extra[KEY]
        """As it was written."""

    def __call__(
        self, windows: NDArray[np.float32], told: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Outputs and scores of windows."""
        inputs = [torch.from_numpy(windows)] + ([] if told is None else [torch.from_numpy(told)])
        with torch.no_grad():
            outputs, score = self._module(*inputs)
        return outputs.numpy(), score.numpy()
