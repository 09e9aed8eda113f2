"""Connectors: sources of live readings. Import them as `fml_lightning.connectors`."""

if __name__ != "fml_lightning.connectors":
    raise ImportError(
        f"'{__name__}' is part of fml_lightning: import it as 'fml_lightning.connectors'"
        " (you are probably running Python from the project's root folder)"
    )

from fml_lightning.connectors.codecs import (
    CBOR,
    Codec,
    CodecError,
    InfluxLine,
    JSONBatch,
    JSONObject,
    JSONScalar,
    MessagePack,
    RawSamples,
    Sample,
    SparkplugB,
    WaveformBlock,
    encode_waveform,
)
from fml_lightning.connectors.connection import TLS, Connection
from fml_lightning.connectors.decoder import Decoder
from fml_lightning.connectors.mqtt import MQTT, Status
from fml_lightning.connectors.readings import LABELS, READINGS, Batch, Connector, Message, Quality
from fml_lightning.connectors.spool import Spool
from fml_lightning.connectors.spool_reader import SpoolReader
from fml_lightning.connectors.spool_source import SpoolSource
from fml_lightning.connectors.topics import LabelTopic, Topic, Topics

__all__ = [
    "CBOR",
    "LABELS",
    "MQTT",
    "READINGS",
    "TLS",
    "Batch",
    "Codec",
    "CodecError",
    "Connection",
    "Connector",
    "Decoder",
    "InfluxLine",
    "JSONBatch",
    "JSONObject",
    "JSONScalar",
    "LabelTopic",
    "Message",
    "MessagePack",
    "Quality",
    "RawSamples",
    "Sample",
    "SparkplugB",
    "Spool",
    "SpoolReader",
    "SpoolSource",
    "Status",
    "Topic",
    "Topics",
    "WaveformBlock",
    "encode_waveform",
]
