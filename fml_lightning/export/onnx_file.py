"""ONNX: a graph that onnxruntime computes without torch.

https://onnx.ai/onnx/repo-docs/IR.html
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from fml_lightning.errors import UserError
from fml_lightning.export.graph import INPUTS, OUTPUTS
from fml_lightning.export.metadata import KEY

OPSET = 18
"""Of 2022, so that older runtimes read the file too."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """See that the packages are there that write and try a file.

    Raises:
        UserError: they are not.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"export: onnx needs {', '.join(missing)}; pip install 'fml-lightning[export]'")


def write(program: torch.export.ExportedProgram, metadata: str) -> bytes:
    """The file of a program, with its metadata as JSON."""
    written = torch.onnx.export(
        program,
        input_names=INPUTS[: len(program.graph_signature.user_inputs)],
        output_names=OUTPUTS,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    model = written.model_proto
    for node in model.graph.node:  # where in which file it was traced, which nobody else needs to know
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=metadata)
    content: bytes = model.SerializeToString()
    return content


class OpenedONNX:
    """A file that can be run."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    @property
    def metadata(self) -> str:
        """As it was written."""
        return str(self._session.get_modelmeta().custom_metadata_map[KEY])

    def __call__(
        self, windows: NDArray[np.float32], told: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Outputs and scores of windows."""
        inputs = {INPUTS[0]: windows} | ({} if told is None else {INPUTS[1]: told})
        outputs, score = self._session.run(list(OUTPUTS), inputs)
        return outputs, score
