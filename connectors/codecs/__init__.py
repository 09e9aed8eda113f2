"""Codecs: how the bytes of a message become samples.

Read `codec` (the contract), then `raw` or `waveform`, the simplest ones. `numbers`, `scalars`, `times`, `binary`
and `unwrap` are what values may look like. Maps, in `json` (whose text is in `json_text`), `cbor` and
`messagepack`, share `members`: `path`, `field` and `fields` say what stands where, `attributes` are what a
message says of its values, and `message_reader` reads it; most messages `record` and `plain_reader` read in less
time. `influx`, `senml` and `sparkplug` are formats of their own; `first_of` and `ignore`, codecs around others
or in place of them; `foreign` and `checked`, those of users. `description` is how a spool keeps any of them.
"""

from fml_lightning.connectors.codecs.binary import Binary
from fml_lightning.connectors.codecs.cbor import CBOR
from fml_lightning.connectors.codecs.codec import (
    Codec,
    CodecError,
    CodecSession,
    PartlyRead,
    Sample,
    StatefulCodec,
)
from fml_lightning.connectors.codecs.description import describe, from_description, is_ours
from fml_lightning.connectors.codecs.first_of import FirstOf
from fml_lightning.connectors.codecs.ignore import Ignore
from fml_lightning.connectors.codecs.influx import InfluxLine
from fml_lightning.connectors.codecs.json import JSONBatch, JSONObject, JSONScalar
from fml_lightning.connectors.codecs.messagepack import MessagePack
from fml_lightning.connectors.codecs.raw import RawSamples
from fml_lightning.connectors.codecs.senml import SenML
from fml_lightning.connectors.codecs.sparkplug import SparkplugB, SparkplugSession
from fml_lightning.connectors.codecs.waveform import WaveformBlock, encode_waveform

__all__ = [
    "CBOR",
    "Binary",
    "Codec",
    "CodecError",
    "CodecSession",
    "FirstOf",
    "Ignore",
    "InfluxLine",
    "JSONBatch",
    "JSONObject",
    "JSONScalar",
    "MessagePack",
    "PartlyRead",
    "RawSamples",
    "Sample",
    "SenML",
    "SparkplugB",
    "SparkplugSession",
    "StatefulCodec",
    "WaveformBlock",
    "describe",
    "encode_waveform",
    "from_description",
    "is_ours",
]
