"""Connectors: sources of live readings. Import them as `fml_lightning.connectors`.

A stack, each part on those before it:
`quality`, `readings`, `messages` (what passes between the parts) and `pace`;
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
    from fml_lightning.connectors.decoding.dead_letter import DeadLetter
    from fml_lightning.connectors.decoding.decoded import Decoded
    from fml_lightning.connectors.decoding.decoder import Decoder
    from fml_lightning.connectors.decoding.rows import Rows
    from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
    from fml_lightning.connectors.messages import MESSAGES, Message, Messages
    from fml_lightning.connectors.mqtt.connection import Connection
    from fml_lightning.connectors.mqtt.publisher import Publisher
    from fml_lightning.connectors.mqtt.source import MQTT
    from fml_lightning.connectors.mqtt.status import Status
    from fml_lightning.connectors.mqtt.tls import TLS
    from fml_lightning.connectors.plant.plant import Plant
    from fml_lightning.connectors.plant.randomization import Randomization
    from fml_lightning.connectors.plant.replay import Replay
    from fml_lightning.connectors.quality import DOUBTFUL, Quality
    from fml_lightning.connectors.readings import LABELS, READINGS, TIME, Batch, Connector
    from fml_lightning.connectors.spool.gaps import Gap
    from fml_lightning.connectors.spool.reader import SpoolReader
    from fml_lightning.connectors.spool.source import SpoolSource
    from fml_lightning.connectors.spool.spool import Spool

__all__ = [
    "CBOR",
    "DOUBTFUL",
    "LABELS",
    "MESSAGES",
    "MQTT",
    "READINGS",
    "TIME",
    "TLS",
    "Batch",
    "Binary",
    "Broker",
    "Codec",
    "CodecError",
    "CodecSession",
    "Connection",
    "Connector",
    "DeadLetter",
    "Decoded",
    "Decoder",
    "FirstOf",
    "Gap",
    "Ignore",
    "InfluxLine",
    "JSONBatch",
    "JSONObject",
    "JSONScalar",
    "LabelTopic",
    "Message",
    "MessagePack",
    "Messages",
    "PartlyRead",
    "Plant",
    "Publisher",
    "Quality",
    "Randomization",
    "RawSamples",
    "Replay",
    "Rows",
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
        "decoding.dead_letter": "DeadLetter",
        "decoding.decoded": "Decoded",
        "decoding.decoder": "Decoder",
        "decoding.rows": "Rows",
        "decoding.topics": "LabelTopic Topic Topics",
        "messages": "MESSAGES Message Messages",
        "mqtt.connection": "Connection",
        "mqtt.publisher": "Publisher",
        "mqtt.source": "MQTT",
        "mqtt.status": "Status",
        "mqtt.tls": "TLS",
        "plant.plant": "Plant",
        "plant.randomization": "Randomization",
        "plant.replay": "Replay",
        "quality": "DOUBTFUL Quality",
        "readings": "LABELS READINGS TIME Batch Connector",
        "spool.gaps": "Gap",
        "spool.reader": "SpoolReader",
        "spool.source": "SpoolSource",
        "spool.spool": "Spool",
    },
)
