"""From a personal model to an exported file, which is tried before it is written."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
import torch

from fml_lightning.durable import make_folder, write
from fml_lightning.errors import UserError
from fml_lightning.export import onnx_file, pt2_file
from fml_lightning.export.graph import Graph
from fml_lightning.export.metadata import Metadata, Said, metadata_of
from fml_lightning.export.trial import Trial, trial_of
from fml_lightning.names import shown
from fml_lightning.personal import PersonalModel
from fml_lightning.personal.registry import Version

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-5
"""How much a file may differ from its model: of numbers above 1 the share, of others the number."""


def export(model: PersonalModel, path: str | Path, format: Format, version: Version | None = None) -> Metadata:
    """Write a personal model as one file, from raw windows to scores; it is tried first, on windows of many kinds.

    Args:
        model: the model.
        path: of the file; a file that is there is replaced, whole.
        format: `onnx`, which runs without torch, or `pt2`.
        version: where the model is in a registry; None where it is in none.

    Raises:
        UserError: something of it cannot be exported, what the file says is not what the model says, or it cannot
            be written.
    """
    path = Path(path)
    if format == "onnx":
        onnx_file.check_installed()
    graph = Graph(model)
    trial = trial_of(model, graph)
    expected = _said_by(model, graph, trial)
    metadata = metadata_of(model, graph, version, expected)
    text = msgspec.json.encode(metadata).decode()
    _write(path, _tried(model, graph, trial, expected, format, text))
    return metadata


def _tried(model: PersonalModel, graph: Graph, trial: Trial, expected: Said, format: Format, text: str) -> bytes:
    """A file of the graph that says what is expected.

    Raises:
        UserError: there is none.
    """
    with _quiet():
        try:
            program = _traced(graph, trial)
            content = onnx_file.write(program, text) if format == "onnx" else pt2_file.write(program, text)
            opened = onnx_file.OpenedONNX(content) if format == "onnx" else pt2_file.OpenedPT2(content)
            for part in trial.parts():
                said = opened(trial.windows[part], None if trial.told is None else trial.told[part])
                _refuse_difference(model, format, trial, part, said, expected)
        except UserError:
            raise
        except Exception as error:  # whatever torch or onnxruntime says of a network that it does not take
            if "KeyboardInterrupt" in _line(_root(error)):  # which torch's C++ has made a text of
                raise KeyboardInterrupt from error
            raise UserError(
                f"export: the network {type(model.net).__name__} cannot be exported as {format}: "
                f"{_line(_root(error))}; load the personal model itself where it is needed"
            ) from error
    return content


def _said_by(model: PersonalModel, graph: Graph, trial: Trial) -> Said:
    """What the model itself says of the trial's windows."""
    told = None
    if trial.told is not None:
        told = dict(zip(graph.told, trial.told.T, strict=True))
    windows = trial.windows
    if model.preprocessing is not None and model.preprocessing.windowing is None:
        windows = windows[:, :, 0]
    try:
        with np.errstate(all="ignore"):
            reading = model.reading(windows, told=told)
    except Exception as error:  # whatever a network says of numbers that are no samples to it, such as tokens
        raise UserError(
            f"export: the network {type(model.net).__name__} cannot be tried on noise, silence and NaN, and is not"
            f" exported: {_line(error)}"
        ) from error
    if reading.outputs.isnan().all():
        raise UserError(
            "export: the model says NaN of every window that it is tried on, as where it is told a speed that"
            " windows of that length cannot hold; mend what is told of the machine, and personalize it again"
        )
    return reading.outputs.numpy(), reading.score.numpy()


def _traced(graph: Graph, trial: Trial) -> torch.export.ExportedProgram:
    """The graph as a program for any number of windows."""
    inputs = [trial.windows[:3]] + ([] if trial.told is None else [trial.told[:3]])
    free = torch.export.Dim("N")
    program = torch.export.export(
        graph, tuple(map(torch.from_numpy, inputs)), dynamic_shapes=tuple({0: free} for _ in inputs)
    )
    for node in program.graph.nodes:  # where in which file it was traced, which nobody else needs to know
        node.meta.pop("stack_trace", None)
    return program


def _refuse_difference(
    model: PersonalModel, format: Format, trial: Trial, part: slice, said: Said, expected: Said
) -> None:
    """See that a file says what the model says, which is NaN of windows with a NaN or an infinity.

    Raises:
        UserError: it does not; naming the number.
    """
    kinds = trial.kinds[part]
    for got, wanted in zip(said, (each[part] for each in expected), strict=True):
        if got.shape != wanted.shape:
            raise UserError(f"export: expected outputs of shape {wanted.shape} of the file, got {got.shape}")
        with np.errstate(invalid="ignore"):
            away = np.abs(got - wanted) / np.maximum(1, np.abs(wanted))
        away = np.where(np.isnan(got) & np.isnan(wanted) | (got == wanted), 0, away)
        away = np.where(np.isnan(away), np.inf, away).reshape(len(got), -1).max(1)
        worst = int(away.argmax())
        if away[worst] > TOLERANCE:
            of = f"{shown(model.site)}/{shown(model.machine)}"
            raise UserError(
                f"export: the {format} file of {of} differs from its model by {away[worst]:.2g} on"
                f" {kinds[worst]}, more than {TOLERANCE:g}: nothing is written"
            )


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _line(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = str(error).strip().splitlines()
    return f"{lines[0]:.200}" if lines else type(error).__name__


def _write(path: Path, content: bytes) -> None:
    try:
        make_folder(path.parent)
        write(path, content)
    except OSError as error:
        raise UserError(f"export: {path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxscript say of their own ways; what fails is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
