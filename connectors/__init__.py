"""Connectors: sources of live readings. Import them as `fml_lightning.connectors`.

A stack, each part on those before it:
`quality`, `messages`, `readings` (what passes between the parts) and `pace`;
`codecs`: one message's bytes as samples;
`decoding`: messages as frames of readings, by topic;
`spool`: the durable log of raw messages, its writers and readers;
`mqtt`: the source of messages, and a publisher;
`survey`: what a broker says, and a proposal of topics that read it;
`broker` and `plant`: what stands in for the broker and the factories of others.

Names are imported when first used: each part needs only its own libraries.
"""

if __name__ != "fml_lightning.connectors":
    raise ImportError(
        f"'{__name__}' is part of fml_lightning: import it as 'fml_lightning.connectors'"
        " (you are probably running Python from the project's root folder)"
    )

from typing import TYPE_CHECKING

from fml_lightning.lazy import attach

if TYPE_CHECKING:
    from fml_lightning.connectors.broker.broker import Broker
    from fml_lightning.connectors.codecs import (
        CBOR,
        Binary,
        Codec,
        CodecError,
        CodecSession,
        FirstOf,
        Ignore,
        InfluxLine,
        JSONBatch,
        JSONObject,
        JSONScalar,
        MessagePack,
        PartlyRead,
        RawSamples,
        Sample,
        SenML,
        SparkplugB,
        StatefulCodec,
        WaveformBlock,
        encode_waveform,
    )
    from fml_lightning.connectors.decoding.decoder import Decoder
    from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
    from fml_lightning.connectors.messages import Message
    from fml_lightning.connectors.mqtt.connection import Connection
    from fml_lightning.connectors.mqtt.publisher import Publisher
    from fml_lightning.connectors.mqtt.source import MQTT
    from fml_lightning.connectors.mqtt.status import Status
    from fml_lightning.connectors.mqtt.tls import TLS
    from fml_lightning.connectors.plant.plant import Plant
    from fml_lightning.connectors.plant.replay import Replay
    from fml_lightning.connectors.quality import Quality
    from fml_lightning.connectors.readings import LABELS, READINGS, Batch, Connector
    from fml_lightning.connectors.spool.reader import SpoolReader
    from fml_lightning.connectors.spool.source import SpoolSource
    from fml_lightning.connectors.spool.spool import Spool

__all__ = [
    "CBOR",
    "LABELS",
    "MQTT",
    "READINGS",
    "TLS",
    "Batch",
    "Binary",
    "Broker",
    "Codec",
    "CodecError",
    "CodecSession",
    "Connection",
    "Connector",
    "Decoder",
    "FirstOf",
    "Ignore",
    "InfluxLine",
    "JSONBatch",
    "JSONObject",
    "JSONScalar",
    "LabelTopic",
    "Message",
    "MessagePack",
    "PartlyRead",
    "Plant",
    "Publisher",
    "Quality",
    "RawSamples",
    "Replay",
    "Sample",
    "SenML",
    "SparkplugB",
    "Spool",
    "SpoolReader",
    "SpoolSource",
    "StatefulCodec",
    "Status",
    "Topic",
    "Topics",
    "WaveformBlock",
    "encode_waveform",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "broker.broker": "Broker",
        "codecs": "Binary CBOR Codec CodecError CodecSession FirstOf Ignore InfluxLine JSONBatch"
        " JSONObject JSONScalar MessagePack PartlyRead RawSamples Sample SenML SparkplugB StatefulCodec"
        " WaveformBlock encode_waveform",
        "decoding.decoder": "Decoder",
        "decoding.topics": "LabelTopic Topic Topics",
        "messages": "Message",
        "mqtt.connection": "Connection",
        "mqtt.publisher": "Publisher",
        "mqtt.source": "MQTT",
        "mqtt.status": "Status",
        "mqtt.tls": "TLS",
        "plant.plant": "Plant",
        "plant.replay": "Replay",
        "quality": "Quality",
        "readings": "LABELS READINGS Batch Connector",
        "spool.reader": "SpoolReader",
        "spool.source": "SpoolSource",
        "spool.spool": "Spool",
    },
)
