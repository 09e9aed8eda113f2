"""Connectors: sources of live readings. Import them as `fml_lightning.connectors`.

What every protocol needs: messages and readings (messages, readings), codecs and what is read with them (codecs/,
topics, decoder, columns, history, streams), the way to the disk (inbox, recorder, dead_letters) and the log there
(spool, segments, durable, page_buffer, spool_reader, spool_source).

MQTT: the source (mqtt), its network thread (network_thread, link, buffered_client, orders), settings (connection),
sending (publisher), a broker (broker, accounts, certificates), metrics. Instead of a factory: plant,
simulated_machine, replay, pace.
"""

if __name__ != "fml_lightning.connectors":
    raise ImportError(
        f"'{__name__}' is part of fml_lightning: import it as 'fml_lightning.connectors'"
        " (you are probably running Python from the project's root folder)"
    )

from fml_lightning.connectors.broker import Broker
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
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.mqtt import MQTT, Status
from fml_lightning.connectors.plant import Plant
from fml_lightning.connectors.publisher import Publisher
from fml_lightning.connectors.readings import LABELS, READINGS, Batch, Connector, Quality
from fml_lightning.connectors.replay import Replay
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
    "Broker",
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
    "Plant",
    "Publisher",
    "Quality",
    "RawSamples",
    "Replay",
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
