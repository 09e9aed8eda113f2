"""Codecs: how the bytes of a message become samples."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.cbor import CBOR
from fml_lightning.connectors.codecs.codec import Codec, CodecError, CodecSession, Sample, StatefulCodec
from fml_lightning.connectors.codecs.influx import InfluxLine
from fml_lightning.connectors.codecs.json import JSONBatch, JSONObject, JSONScalar
from fml_lightning.connectors.codecs.messagepack import MessagePack
from fml_lightning.connectors.codecs.raw import RawSamples
from fml_lightning.connectors.codecs.sparkplug import SparkplugB, SparkplugSession
from fml_lightning.connectors.codecs.waveform import WaveformBlock, encode_waveform
from fml_lightning.errors import UserError

__all__ = [
    "CBOR",
    "Codec",
    "CodecError",
    "CodecSession",
    "InfluxLine",
    "JSONBatch",
    "JSONObject",
    "JSONScalar",
    "MessagePack",
    "RawSamples",
    "Sample",
    "SparkplugB",
    "SparkplugSession",
    "StatefulCodec",
    "WaveformBlock",
    "describe",
    "encode_waveform",
    "from_description",
    "is_ours",
]

_CODECS: dict[str, type[Codec] | type[StatefulCodec]] = {
    codec.__name__: codec
    for codec in (
        CBOR,
        InfluxLine,
        JSONBatch,
        JSONObject,
        JSONScalar,
        MessagePack,
        RawSamples,
        SparkplugB,
        WaveformBlock,
    )
}


def is_ours(codec: Codec | StatefulCodec) -> bool:
    """Whether a codec is one of this package, which a spool can describe."""
    return type(codec) in _CODECS.values()


def describe(codec: Codec | StatefulCodec) -> dict[str, Any]:
    """A codec as a mapping that JSON can hold, from which `from_description` makes it again.

    >>> describe(InfluxLine(machine_tag="machine"))
    {'codec': 'InfluxLine', 'time_unit': 'ns', 'machine_tag': 'machine', 'site_tag': None}

    Raises:
        UserError: not one of our codecs.
    """
    if not is_ours(codec):
        raise UserError(f"codec: expected one of {', '.join(_CODECS)}, got {type(codec).__name__}")
    options = {field.name: getattr(codec, field.name) for field in fields(codec)}  # type: ignore[arg-type]
    return {"codec": type(codec).__name__, **msgspec.to_builtins(options)}


def from_description(description: Mapping[str, Any]) -> Codec | StatefulCodec:
    """The codec that `describe` described; options left out are the defaults. Nothing else can come of it.

    Raises:
        UserError: an unknown codec, or an option that it does not have.
    """
    options = dict(description)
    name = options.pop("codec", None)
    codec = _CODECS.get(name) if isinstance(name, str) else None
    if codec is None:
        raise UserError(f"codec: expected one of {', '.join(_CODECS)}, got {name!r}")
    known = [field.name for field in fields(codec)]  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"{name}: expected options among {', '.join(known) or 'none'}, got {', '.join(unknown)}")
    try:
        return msgspec.convert(options, codec)
    except msgspec.ValidationError as error:
        raise UserError(f"{name}: {error}; mend the options of this codec") from error
