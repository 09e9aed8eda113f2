"""Descriptions of codecs, as spools keep them: mappings that JSON can hold, and from which codecs are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from json import dumps
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.cbor import CBOR
from fml_lightning.connectors.codecs.codec import Codec, StatefulCodec
from fml_lightning.connectors.codecs.first_of import FirstOf
from fml_lightning.connectors.codecs.foreign import import_codec, import_path
from fml_lightning.connectors.codecs.ignore import Ignore
from fml_lightning.connectors.codecs.influx import InfluxLine
from fml_lightning.connectors.codecs.json import JSONBatch, JSONObject, JSONScalar
from fml_lightning.connectors.codecs.messagepack import MessagePack
from fml_lightning.connectors.codecs.raw import RawSamples
from fml_lightning.connectors.codecs.senml import SenML
from fml_lightning.connectors.codecs.sparkplug import SparkplugB
from fml_lightning.connectors.codecs.waveform import WaveformBlock
from fml_lightning.errors import UserError

_CODECS: dict[str, type[Codec] | type[StatefulCodec]] = {
    codec.__name__: codec
    for codec in (
        CBOR,
        FirstOf,
        Ignore,
        InfluxLine,
        JSONBatch,
        JSONObject,
        JSONScalar,
        MessagePack,
        RawSamples,
        SenML,
        SparkplugB,
        WaveformBlock,
    )
}


def is_ours(codec: Codec | StatefulCodec) -> bool:
    """Whether a codec is one of this package, whose samples need no check."""
    inner = codec.codecs if isinstance(codec, FirstOf) else ()
    return type(codec) in _CODECS.values() and all(map(is_ours, inner))


def describe(codec: Codec | StatefulCodec) -> dict[str, Any]:
    """A codec as a mapping that JSON can hold, from which `from_description` makes it again.

    One of this package is named by its class, another by its import path.

    >>> describe(InfluxLine(machine_tag="machine"))
    {'codec': 'InfluxLine', 'time_unit': 'ns', 'machine_tag': 'machine', 'site_tag': None}

    Raises:
        UserError: another process could not make it again.
    """
    kind = type(codec)
    if isinstance(codec, FirstOf):
        return {"codec": "FirstOf", "codecs": [describe(one) for one in codec.codecs]}
    if is_ours(codec):
        return _described(kind.__name__, codec)
    name = import_path(kind)
    try:
        text = dumps(_described(name, codec), allow_nan=False)
        again = from_description(msgspec.json.decode(text))
        if (other := dumps(_described(name, again), allow_nan=False)) != text:
            raise ValueError(f"{text} became {other}")
    except (TypeError, ValueError, RecursionError, UserError) as error:
        raise UserError(
            f"{name}: expected fields that JSON can hold and that make the same codec again, such as finite"
            f" numbers and strings ({error})"
        ) from error
    description: dict[str, Any] = msgspec.json.decode(text)
    return description


def from_description(description: Mapping[str, Any]) -> Codec | StatefulCodec:
    """The codec that `describe` described; options left out are the defaults.

    A name with a dot is imported, so whoever writes a description chooses a module to import, among those that
    Python finds; nothing else of it is executed, and nothing but a codec comes of it.

    Raises:
        UserError: an unknown codec, one that cannot be imported, or an option that it does not have.
    """
    options = dict(description)
    name = options.pop("codec", None)
    if isinstance(name, str) and "." in name:
        codec = import_codec(name)
    elif isinstance(name, str) and name in _CODECS:
        codec = _CODECS[name]
    else:
        raise UserError(f"codec: expected one of {', '.join(_CODECS)}, or an import path, got {name!r}")
    known = [field.name for field in _options(codec)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"{name}: expected options among {', '.join(known) or 'none'}, got {', '.join(unknown)}")
    if codec is FirstOf and isinstance(options.get("codecs"), list):
        options["codecs"] = [from_description(_mapping(one)) for one in options["codecs"]]
    try:
        return msgspec.convert(options, codec, str_keys=True)  # JSON has no other keys
    except msgspec.ValidationError as error:
        raise UserError(f"{name}: {error}; mend the options of this codec") from error
    except UserError:
        raise
    except Exception as error:  # of a codec of the user's own
        raise UserError(f"{name}: {type(error).__name__}: {error}; mend the options of this codec") from error


def _mapping(description: object) -> dict[str, Any]:
    if not isinstance(description, dict):
        raise UserError(
            f"FirstOf.codecs: expected codecs, each described by name and options, got {description!r:.100}"
        )
    return description


def _described(name: str, codec: Codec | StatefulCodec) -> dict[str, Any]:
    """The name and the fields, in which no set or mapping has an order that another process would not give it."""
    values = {
        field.name: value
        for field in _options(type(codec))
        if (value := getattr(codec, field.name)) != field.default or "later" not in field.metadata
    }
    if "codec" in values:
        raise UserError(f"{name}: a field is called codec, as what names the class; rename it")
    plain = {
        key: msgspec.to_builtins(value, str_keys=True, order="deterministic") for key, value in values.items()
    }
    return {"codec": name, **plain}


def _options(codec: type[Codec] | type[StatefulCodec]) -> list[dataclasses.Field[Any]]:
    """The fields that make a codec what it is."""
    if not dataclasses.is_dataclass(codec):
        raise UserError(f"{codec.__name__}: expected a dataclass; write @dataclass(frozen=True) above the class")
    return [field for field in dataclasses.fields(codec) if field.init]
