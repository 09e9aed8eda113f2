"""The file of a personal model: tensors and JSON, in the format of safetensors, which runs nothing as it is read.

https://huggingface.co/docs/safetensors. What the file says is checked as if a stranger had written it; its digest
finds what was changed by accident, not by somebody who wrote a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from fml_lightning import durable
from fml_lightning.errors import UserError
from fml_lightning.stream_timing import StreamTiming

FORMAT = 1
"""The format that this version writes, and the only one that it reads."""
KEY = "fml_lightning"
"""The entry of the file's metadata that holds the JSON."""
AGAIN = "make it again with `fml personalize`"


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file holds beside tensors."""

    version: str
    """Of the package that wrote it."""
    net: dict[str, Any]
    """Its description; or, where it cannot be described, the `reason`."""
    objective: dict[str, Any]
    """Likewise."""
    classes: tuple[str, ...]
    preprocessing: dict[str, Any] | None
    batch_norm: str | None
    normal: str
    site: str
    machine: str
    told: dict[str, float]
    card: dict[str, Any]
    limit: float | None = None
    timing: StreamTiming = StreamTiming()


def write(path: Path, tensors: Mapping[str, Tensor], content: Content) -> None:
    """Write a file: whole and new, or not at all.

    Raises:
        UserError: something in `content` is nothing that JSON can hold, or the file cannot be written.
    """
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    told = {"format": FORMAT, **msgspec.to_builtins(content)}
    try:
        digest = _digest(tensors, told)
        whole = save(tensors, {KEY: _text({**told, "digest": digest})})
    except (ValueError, TypeError) as error:
        raise UserError(f"PersonalModel: {path} cannot hold this model: {error}") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, whole)
    except OSError as error:
        raise UserError(f"PersonalModel: {path} cannot be written: {error.strerror or error}") from error


def read(path: Path) -> tuple[Content, dict[str, Tensor]]:
    """What a file holds; its tensors stay on disk until they are used.

    Raises:
        UserError: there is no such file, or it is not what `write` wrote.
    """
    if not path.is_file():
        raise UserError(f"PersonalModel: no file {path}; write it with `fml personalize`")
    try:
        with path.open("rb") as file:
            if file.read(2) in (b"PK", b"\x80\x02"):
                raise UserError(
                    f"PersonalModel: {path} was written by torch.save, as an older version did; {AGAIN}"
                )
        with safetensors.safe_open(path, "pt") as opened:
            text = (opened.metadata() or {}).get(KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
    except UserError:
        raise
    except Exception as error:  # whatever a file that is no personal model makes of the reader
        _refuse(path, " ".join(str(error).split()) or type(error).__name__, error)
    if text is None:
        _refuse(path, "it has no description of one")
    return _content(path, text, tensors), tensors


def _content(path: Path, text: str, tensors: Mapping[str, Tensor]) -> Content:
    try:
        told = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its description is no JSON, {error}", error)
    if not isinstance(told, dict) or "format" not in told:
        _refuse(path, "its description has no format")
    if told["format"] != FORMAT:
        raise UserError(
            f"PersonalModel: {path}: expected format {FORMAT}, got {told['format']!r:.40}, of another version"
            f" of this package; take that version, or {AGAIN}"
        )
    digest = told.pop("digest", None)
    try:
        is_whole = digest == _digest(tensors, told)
        del told["format"]
        content = msgspec.convert(told, Content)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        _refuse(path, f"its description does not hold: {error}", error)
    if not is_whole:
        raise UserError(
            f"PersonalModel: {path} was changed after it was written: its digest is another one; {AGAIN}, or fetch"
            " it again from where it came"
        )
    return content


def _digest(tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> str:
    """SHA-256 over the tensors, in the order of their names, and the JSON."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_text([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(_text(told).encode())
    return digest.hexdigest()


def _text(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a key twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it has {name}")


def _refuse(path: Path, why: str, error: BaseException | None = None) -> NoReturn:
    raise UserError(f"PersonalModel: {path} is not a personal model: {why:.300}; {AGAIN}") from error
