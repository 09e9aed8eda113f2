"""Payloads of unlike devices, and what a person would read in them."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import time
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import polars as pl

from fml_lightning.connectors import encode_waveform

NOW = int(time.time())
ISO = datetime.fromtimestamp(NOW, UTC).isoformat().replace("+00:00", "Z")
LOCAL = datetime.fromtimestamp(NOW, UTC).replace(tzinfo=None).isoformat()


@dataclass(frozen=True)
class Device:
    """What devices of one kind send, and the readings in it."""

    messages: tuple[tuple[str, bytes], ...]
    """Topics and payloads."""
    readings: Mapping[tuple[str, str], tuple[float, ...]]
    """The numbers of each machine and channel, all messages together; blocks as their numbers in a row."""


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _one(topic: str, payload: Any, **readings: Any) -> Device:
    """One message of one machine; channels with `__` for a slash."""
    data = payload if isinstance(payload, bytes) else _json(payload)
    return Device(
        ((topic, data),),
        {("m", k): tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in readings.items()},
    )


def _several(*messages: tuple[str, Any], readings: Mapping[tuple[str, str], Any]) -> Device:
    data = tuple((topic, p if isinstance(p, bytes) else _json(p)) for topic, p in messages)
    return Device(data, {k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in readings.items()})


WAVE = [0.25, -0.5, 1.0, 0.125, -2.0, 0.75, 0.5, 0.0]

DEVICES: dict[str, Device] = {
    "opc_ua_pubsub": _one(
        "opc/json/data/urn:server",
        {
            "MessageId": "32235546-05d9-4fd7-97df-ea3ff3408574",
            "MessageType": "ua-data",
            "PublisherId": "server-1",
            "Messages": [
                {
                    "DataSetWriterId": 1,
                    "SequenceNumber": 4,
                    "Timestamp": ISO,
                    "Payload": {
                        "Speed": {"Value": 1480.5, "SourceTimestamp": ISO, "StatusCode": 0},
                        "Load": {"Value": 61.5, "SourceTimestamp": ISO, "StatusCode": 0},
                    },
                }
            ],
        },
        Speed=1480.5,
        Load=61.5,
    ),
    "telegraf_json": _several(
        *(
            (
                "telegraf/metrics",
                {
                    "fields": {"usage": 3.5 + i, "temp": 40.0 + i},
                    "name": "motor",
                    "tags": {"host": f"press-{i}", "region": "eu"},
                    "timestamp": NOW,
                },
            )
            for i in range(2)
        ),
        readings={
            ("press-0", "usage"): 3.5,
            ("press-0", "temp"): 40.0,
            ("press-1", "usage"): 4.5,
            ("press-1", "temp"): 41.0,
        },
    ),
    "shelly": _one(
        "shellies/plug-7/status/em:0",
        {"id": 0, "voltage": 230.1, "current": 1.25, "aenergy": {"total": 12.5, "minute_ts": NOW}, "output": True},
        voltage=230.1,
        current=1.25,
        total=12.5,
        output=1,
    ),
    "samples_with_rate": _one(
        "works/press3/accel",
        {"ts": NOW * 1000, "fs": 6400, "unit": "g", "samples": WAVE},
        accel=WAVE,
    ),
    "samples_with_text_rate": _one(
        "hall/vibration/mill9",
        {"meta": {"sample_rate": "6400", "start": ISO}, "data": {"x": WAVE[:4], "y": WAVE[4:]}},
        x=WAVE[:4],
        y=WAVE[4:],
    ),
    "samples_with_stamps": _one(
        "log/pump8/flow",
        {"values": [1.5, 2.5, 3.5], "timestamps": [NOW * 1000, NOW * 1000 + 10, NOW * 1000 + 20]},
        flow=[1.5, 2.5, 3.5],
    ),
    "numbers_as_text": _one(
        "modbus/inverter1",
        {"time": str(NOW), "power": "1250.5", "freq": "50.02", "serial": "A-77", "firmware": "1.2.3"},
        power=1250.5,
        freq=50.02,
    ),
    "list_of_channels": _one(
        "edge/box4",
        {
            "device": "box4",
            "time": ISO,
            "measurements": [
                {"name": "temp", "value": 20.5, "unit": "C"},
                {"name": "rms", "value": 0.75, "unit": "g"},
                {"name": "speed", "value": 1490, "unit": "rpm"},
            ],
        },
        temp=20.5,
        rms=0.75,
        speed=1490,
    ),
    "batch_of_machines": _several(
        (
            "gateway/batch",
            [
                {"machine": "lathe-1", "sensor": "rms", "value": 0.5, "ts": NOW},
                {"machine": "lathe-2", "sensor": "rms", "value": 0.75, "ts": NOW},
                {"machine": "lathe-2", "sensor": "temp", "value": 33.5, "ts": NOW},
            ],
        ),
        readings={("lathe-1", "rms"): 0.5, ("lathe-2", "rms"): 0.75, ("lathe-2", "temp"): 33.5},
    ),
    "devices_in_a_list": _several(
        (
            "bms/floor2",
            {
                "timestamp": NOW * 1000,
                "devices": [
                    {"id": "fan1", "rpm": 900, "temp": 30.5},
                    {"id": "fan2", "rpm": 950, "temp": 31.5},
                ],
            },
        ),
        readings={
            ("fan1", "rpm"): 900,
            ("fan1", "temp"): 30.5,
            ("fan2", "rpm"): 950,
            ("fan2", "temp"): 31.5,
        },
    ),
    "devices_by_key": _several(
        (
            "plc/line4/all",
            {
                "ts": NOW * 1000,
                "pumpA": {"pressure": 4.5, "flow": 12.5},
                "pumpB": {"pressure": 5.5, "flow": 13.5},
            },
        ),
        readings={
            ("m", "pumpA/pressure"): 4.5,
            ("m", "pumpA/flow"): 12.5,
            ("m", "pumpB/pressure"): 5.5,
            ("m", "pumpB/flow"): 13.5,
        },
    ),
    "scalars_of_a_plant": _several(
        *(
            (f"fab/north/mill-{m}/{c}", str(v).encode())
            for m, c, v in ((1, "temp", 20.5), (1, "rms", 0.5), (2, "temp", 30.5), (2, "rms", 0.75))
        ),
        readings={
            ("mill-1", "temp"): 20.5,
            ("mill-1", "rms"): 0.5,
            ("mill-2", "temp"): 30.5,
            ("mill-2", "rms"): 0.75,
        },
    ),
    "objects_of_a_plant": _several(
        *(
            (f"acme/{site}/{m}/telemetry", {"ts": NOW * 1000, "rms": v, "kurtosis": v + 3})
            for site, m, v in (("ulm", "saw", 0.5), ("ulm", "drill", 0.75), ("kiel", "saw", 1.5))
        ),
        readings={
            ("ulm/saw", "rms"): 0.5,
            ("ulm/saw", "kurtosis"): 3.5,
            ("ulm/drill", "rms"): 0.75,
            ("ulm/drill", "kurtosis"): 3.75,
            ("kiel/saw", "rms"): 1.5,
            ("kiel/saw", "kurtosis"): 4.5,
        },
    ),
    "gzip": _one("zipped/agg2", gzip.compress(_json({"t": NOW, "rms": 1.5, "peak": 4.5})), rms=1.5, peak=4.5),
    "base64_of_zlib": _one(
        "packed/agg3", base64.b64encode(zlib.compress(_json({"timestamp": ISO, "torque": 7.5}))), torque=7.5
    ),
    "msgpack": _one(
        "mp/robot6", msgspec.msgpack.encode({"ts": NOW, "axes": {"a1": 1.5, "a2": 2.5}}), a1=1.5, a2=2.5
    ),
    "influx": _several(
        (
            "influx",
            f"motor,host=m1,axis=x rms=0.5 {NOW}000000000\nmotor,host=m2,axis=x rms=0.75 {NOW}000000000".encode(),
        ),
        readings={("m1", "rms x"): 0.5, ("m2", "rms x"): 0.75},
    ),
    "waveform": _one("daq/rig5/acc", encode_waveform(WAVE, 25_600.0, NOW * 1_000_000), acc=WAVE),
    "base64_samples": _one(
        "dsp/gear2/acc",
        {
            "time": NOW * 1000,
            "sample_rate": 1000,
            "n_samples": len(WAVE),
            "data": base64.b64encode(np.array(WAVE, "<f4").tobytes()).decode(),
        },
        acc=WAVE,
    ),
    "local_time": _one("heat/boiler", {"Time": LOCAL, "SENSOR": {"T1": 61.5, "T2": 48.5}}, T1=61.5, T2=48.5),
    "three_axes": _one(
        "imu/arm",
        {"t": NOW * 1000, "acc": [0.5, -0.25, 9.75], "temp": 30.5},
        **{"acc0": 0.5, "acc1": -0.25, "acc2": 9.75, "temp": 30.5},
    ),
    "nan_and_null": _one("esp/oven", b'{"temperature": nan, "humidity": null, "rms": 2.5}', rms=2.5),
    "quality": _one(
        "scada/tank1",
        {
            "timestamp": ISO,
            "tags": [
                {"tag": "Level", "val": 3.5, "quality": "Good"},
                {"tag": "Temp", "val": 18.5, "quality": "Bad"},
            ],
        },
        Level=3.5,
        Temp=18.5,
    ),
    "node_ids": _one(
        "kepware/gw",
        {
            "timestamp": NOW * 1000,
            "values": [
                {"id": "Line2.Robot.Torque", "v": 3.5, "q": True, "t": NOW * 1000},
                {"id": "Line2.Robot.Speed", "v": 4.5, "q": True, "t": NOW * 1000},
            ],
        },
        Torque=3.5,
        Speed=4.5,
    ),
    "uptime": _one("tiny/node3", {"uptime": 123456, "vib": 0.5}, uptime=123456, vib=0.5),
    "seconds_with_fraction": _one("py/rig", {"time": NOW + 0.25, "value": 2.5}, rig=2.5),
    "nanoseconds": _one("go/rig", {"timestamp": NOW * 10**9, "load": 0.5}, load=0.5),
    "a_reading_each": _several(
        *(
            ("all/readings", {"device_id": d, "sensor": c, "value": v, "unit": "g", "ts": NOW * 1000})
            for d, c, v in (("d1", "x", 0.5), ("d1", "y", 0.25), ("d2", "x", 1.5))
        ),
        readings={("d1", "x"): 0.5, ("d1", "y"): 0.25, ("d2", "x"): 1.5},
    ),
    "senml": _one(
        "senml/mote",
        [
            {"bn": "urn:dev:mote:", "bt": NOW, "n": "temp", "u": "Cel", "v": 21.5},
            {"n": "hum", "u": "%RH", "v": 40.5},
        ],
        temp=21.5,
        hum=40.5,
    ),
    "states_beside": _one(
        "cnc/haas1", {"ts": NOW * 1000, "spindle": 8000, "feed": 0.5, "mode": "AUTO"}, spindle=8000, feed=0.5
    ),
    "lorawan_full": _one(
        "application/5/device/24e124/event/up",
        {
            "deduplicationId": "3ac7e3c4-4401-4b8d-9386-a5c902f9202d",
            "time": ISO,
            "deviceInfo": {"tenantName": "T", "applicationName": "app", "deviceName": "vib-1", "devEui": "24e124"},
            "devAddr": "00189440",
            "fCnt": 10,
            "fPort": 85,
            "data": "A2cBEA==",
            "object": {"temperature": 27.5, "battery": 99},
            "rxInfo": [{"gatewayId": "g1", "rssi": -48, "snr": 9.5}],
        },
        temperature=27.5,
        battery=99,
    ),
    "victron": _several(
        *(
            (f"N/c0619ab1/{service}/0/{path}", {"value": v})
            for service, path, v in (
                ("battery", "Voltage", 12.5),
                ("battery", "Current", 3.5),
                ("solar", "Voltage", 48.5),
                ("solar", "Current", 5.5),
            )
        ),
        readings={
            ("battery", "Voltage"): 12.5,
            ("battery", "Current"): 3.5,
            ("solar", "Voltage"): 48.5,
            ("solar", "Current"): 5.5,
        },
    ),
    "shadow": _one(
        "shadow/thing/compressor7/update",
        {
            "state": {"reported": {"pressure": 6.5, "temp": 71.5, "connected": True}},
            "timestamp": NOW,
            "version": 12,
        },
        pressure=6.5,
        temp=71.5,
        connected=1,
    ),
    "azure_d": _one(
        "iot-2/type/motor/id/M4/evt/status/fmt/json",
        {"d": {"rpm": 1500, "amps": 3.25}, "ts": ISO},
        rpm=1500,
        amps=3.25,
    ),
    "hex_json": _one(
        "hexed/agg", _json({"time": ISO, "rms": 3.5, "crest": 4.5}).hex().encode(), rms=3.5, crest=4.5
    ),
    "bearing_features": _one(
        "cm/gearbox/de",
        {
            "timestamp": ISO,
            "axis": {"x": {"rms": 0.5, "kurt": 3.25}, "y": {"rms": 0.75, "kurt": 3.5}},
            "temperature": 55.5,
        },
        x_rms=0.5,
        x_kurt=3.25,
        y_rms=0.75,
        y_kurt=3.5,
        temperature=55.5,
    ),
    "wide_rows": _several(
        (
            "hist/rows",
            [
                {"time": ISO, "asset": "k1", "p": 1.5, "q": 2.5},
                {"time": ISO, "asset": "k2", "p": 3.5, "q": 4.5},
            ],
        ),
        readings={("k1", "p"): 1.5, ("k1", "q"): 2.5, ("k2", "p"): 3.5, ("k2", "q"): 4.5},
    ),
    "site_in_payload": _several(
        *(
            ("cloud/in", {"site": site, "machine": "p1", "rms": v, "when": NOW * 1000})
            for site, v in (("ulm", 0.5), ("kiel", 0.75))
        ),
        readings={("ulm p1", "rms"): 0.5, ("kiel p1", "rms"): 0.75},
    ),
    "booleans": _several(
        *((f"dio/rack1/in{i}", b"true" if i else b"false") for i in range(2)),
        readings={("rack1", "in0"): 0, ("rack1", "in1"): 1},
    ),
    "integer_keys": _one("cb/valve", msgspec.msgpack.encode({1: NOW, 2: 4.5, 3: 5.5}), two=4.5, three=5.5),
    "typed_array": _one(
        "cb/ring",
        msgspec.msgpack.encode({"t": NOW * 1000, "rate": 2000, "acc": WAVE}),
        acc=WAVE,
    ),
    "one_block_per_axis": _one(
        "daq2/box",
        {"ts": ISO, "sampling_rate": 3200, "x": WAVE[:4], "y": WAVE[4:], "temp": 41.5},
        x=WAVE[:4],
        y=WAVE[4:],
        temp=41.5,
    ),
    "blocks_in_a_list": _one(
        "daq3/box",
        {
            "channels": [
                {"name": "ch1", "fs": 1000, "data": WAVE[:4]},
                {"name": "ch2", "fs": 2000, "data": WAVE[4:]},
            ],
            "ts": NOW,
        },
        ch1=WAVE[:4],
        ch2=WAVE[4:],
    ),
    "a_key_with_a_dot": _one("dots/x1", {"rms.x": 0.5, "rms.y": 0.25, "ts": NOW}, x=0.5, y=0.25),
    "history_of_a_channel": _one(
        "hist/tank/level",
        {"points": [{"t": (NOW - 2) * 1000, "v": 1.5}, {"t": (NOW - 1) * 1000, "v": 2.5}]},
        level=[1.5, 2.5],
    ),
    "two_formats": _several(
        ("fw/pump/rms", b"1.5"), ("fw/pump/rms", {"value": 2.5, "ts": NOW}), readings={("pump", "rms"): (1.5, 2.5)}
    ),
    "counter_and_id": _several(
        *(
            (
                "cnt/dev9",
                {"msg_id": f"3ac7e3c4-4401-4b8d-9386-a5c902f9202{i}", "seq": 100 + i, "rms": 0.5 + i, "ts": NOW},
            )
            for i in range(4)
        ),
        readings={("dev9", "rms"): (0.5, 1.5, 2.5, 3.5)},
    ),
    "topic_of_one_level": _one("temperature", b"21.25", temperature=21.25),
    "value_with_unit": _several(
        *(
            (f"u/press/{c}", {"value": v, "unit": u, "timestamp": ISO})
            for c, v, u in (("temp", 20.5, "C"), ("rms", 0.5, "g"))
        ),
        readings={("press", "temp"): 20.5, ("press", "rms"): 0.5},
    ),
    "plain_numbers_of_one_machine": _several(
        *((f"robot/axis{i}", str(0.5 + i).encode()) for i in range(3)),
        readings={("robot", f"axis{i}"): 0.5 + i for i in range(3)},
    ),
    "name_and_value": _several(
        *(
            ("tags/all", {"tagname": n, "value": v, "ts": ISO})
            for n, v in (("P1.Speed", 20.5), ("P2.Speed", 0.5), ("P2.Temp", 1.5))
        ),
        readings={("P1", "Speed"): 20.5, ("P2", "Speed"): 0.5, ("P2", "Temp"): 1.5},
    ),
    "shelly1": _several(
        *(
            (f"shellies/shellyem-1/emeter/{i}/{c}", str(v + i).encode())
            for i in range(2)
            for c, v in (("power", 12.5), ("voltage", 230.25))
        ),
        readings={
            ("shellyem-1", f"{i}{c}"): v + i for i in range(2) for c, v in (("power", 12.5), ("voltage", 230.25))
        },
    ),
    "simatic": _one(
        "ie/d/j/simatic/v1/s7c1/dp/r/PLC1/default",
        {
            "seq": 1,
            "vals": [
                {"id": "101", "qc": 3, "ts": ISO, "val": 12.5},
                {"id": "102", "qc": 3, "ts": ISO, "val": 7.5},
            ],
        },
        a=12.5,
        b=7.5,
    ),
    "opcpub": _one(
        "opcpublisher/messages",
        [
            {
                "NodeId": "nsu=http://x;s=Speed",
                "ApplicationUri": "urn:srv",
                "DisplayName": "Speed",
                "Value": {"Value": 12.5, "SourceTimestamp": ISO},
            },
            {
                "NodeId": "nsu=http://x;s=Load",
                "ApplicationUri": "urn:srv",
                "DisplayName": "Load",
                "Value": {"Value": 3.5, "SourceTimestamp": ISO},
            },
        ],
        Speed=12.5,
        Load=3.5,
    ),
    "sitewise": _several(
        *(
            (
                "sitewise/in",
                {
                    "propertyAlias": f"/plant/line1/pump/{c}",
                    "propertyValues": [
                        {
                            "value": {"doubleValue": v},
                            "timestamp": {"timeInSeconds": NOW, "offsetInNanos": 0},
                            "quality": "GOOD",
                        }
                    ],
                },
            )
            for c, v in (("rpm", 1480.5), ("temp", 33.5))
        ),
        readings={("m", "rpm"): 1480.5, ("m", "temp"): 33.5},
    ),
    "registers": _one(
        "modbusgw/out",
        {"device": "PM5110", "slave": 3, "registers": {"40001": 12.5, "40003": 50.125}, "ts": NOW},
        a=12.5,
        b=50.125,
    ),
    "ros": _one(
        "agv/agv-3/odometry",
        {
            "pose": {"position": {"x": 1.5, "y": 2.5, "z": 0.5}, "orientation": {"w": 1.0}},
            "stamp": {"secs": NOW, "nsecs": 500},
        },
        x=1.5,
        y=2.5,
        z=0.5,
        w=1.0,
    ),
    "neuron_values": _one(
        "neuron/modbus-1/upload",
        {
            "node": "modbus-1",
            "group": "grp",
            "timestamp": NOW * 1000,
            "values": {"tag1": 12.5, "tag2": 3},
            "errors": {"tag3": 2002},
        },
        tag1=12.5,
        tag2=3,
    ),
    "tb_gateway": _several(
        (
            "v1/gateway/telemetry",
            {
                "Device A": [{"ts": NOW * 1000, "values": {"temperature": 42, "humidity": 80}}],
                "Device B": [{"ts": NOW * 1000, "values": {"temperature": 43, "humidity": 81}}],
            },
        ),
        readings={("A", "t"): 42, ("A", "h"): 80, ("B", "t"): 43, ("B", "h"): 81},
    ),
    "ubidots": _one(
        "ubi/v1.6/devices/pump",
        {
            "temp": {"value": 10.5, "timestamp": NOW * 1000, "context": {"lat": 1.5}},
            "hum": {"value": 40.5, "timestamp": NOW * 1000},
        },
        temp=10.5,
        hum=40.5,
    ),
    "kafka_connect": _one(
        "kc/sink",
        {
            "schema": {"type": "struct", "optional": False, "fields": [{"field": "rms", "type": "double"}]},
            "payload": {"asset": "comp-1", "rms": 0.5, "peak": 1.5, "event_time": NOW * 1000},
        },
        rms=0.5,
        peak=1.5,
    ),
    "cloudevents": _several(
        *(
            (
                "ce/in",
                {
                    "specversion": "1.0",
                    "type": "com.x.telemetry",
                    "source": f"/line/{m}",
                    "id": f"A234-1234-{i:04}",
                    "time": ISO,
                    "datacontenttype": "application/json",
                    "data": {"rms": 0.5 + i, "temp": 40.5 + i},
                },
            )
            for i, m in enumerate(("saw", "mill"))
        ),
        readings={("saw", "rms"): 0.5, ("saw", "temp"): 40.5, ("mill", "rms"): 1.5, ("mill", "temp"): 41.5},
    ),
    "skf": _one(
        "imx/IMX8-1/wf", {"sensor": "IMX8-1", "ch": 1, "samplerate": 25600, "t0": ISO, "samples": WAVE}, acc=WAVE
    ),
    "spectrum": _one(
        "spec/fan2",
        {"ts": NOW * 1000, "rms": 1.25, "peak": 4.5, "spectrum": [0.5] * 64, "df": 0.5},
        rms=1.25,
        peak=4.5,
        df=0.5,
    ),
    "blocks": _one(
        "vb/gear1",
        {
            "time": ISO,
            "blocks": [
                {"axis": "x", "fs": 3200, "samples": WAVE[:4]},
                {"axis": "y", "fs": 3200, "samples": WAVE[4:]},
            ],
        },
        x=WAVE[:4],
        y=WAVE[4:],
    ),
    "gz_array": _several(
        (
            "gza/all",
            gzip.compress(
                json.dumps([{"dev": "a1", "t": NOW, "rms": 0.5}, {"dev": "a2", "t": NOW, "rms": 0.75}]).encode()
            ),
        ),
        readings={("a1", "rms"): 0.5, ("a2", "rms"): 0.75},
    ),
    "features": _one(
        "feat/bearing-3",
        {
            "id": "bearing-3",
            "ts": ISO,
            "features": {"rms": 0.5, "kurtosis": 3.25},
            "bands": {"0-1k": 0.125, "1k-2k": 0.25},
        },
        rms=0.5,
        kurtosis=3.25,
        a=0.125,
        b=0.25,
    ),
    "int16_hex_json": _one(
        "hx/rig2",
        {
            "ts": NOW * 1000,
            "sr": 800,
            "payload": np.array([1, 2, 3, -4, 500, 6, 7, 8, 9, 10, 11, 12], "<i2").tobytes().hex(),
        },
        acc=[1, 2, 3, -4, 500, 6, 7, 8, 9, 10, 11, 12],
    ),
    "xyz_list": _one(
        "imu2/arm2",
        {"t": NOW * 1000, "fs": 100, "data": [{"x": 1.5, "y": 2.5, "z": 3.5}, {"x": 4.5, "y": 5.5, "z": 6.5}]},
        x=[1.5, 4.5],
        y=[2.5, 5.5],
        z=[3.5, 6.5],
    ),
    "rows_of_samples": _one(
        "imu3/arm3",
        {
            "timestamp": NOW * 1000,
            "rate": 100,
            "accel": [
                [1.5, 2.5, 3.5],
                [4.5, 5.5, 6.5],
                [7.5, 8.5, 9.5],
                [1.25, 2.25, 3.25],
                [1.125, 2.125, 3.125],
            ],
        },
        x=[1.5, 4.5, 7.5, 1.25, 1.125],
        y=[2.5, 5.5, 8.5, 2.25, 2.125],
        z=[3.5, 6.5, 9.5, 3.25, 3.125],
    ),
    "isa95": _several(
        *(
            (f"acme/berlin/paint/line{n}/oven/{c}", str(v + n).encode())
            for n in (1, 2)
            for c, v in (("temperature", 180.5), ("power", 3.5))
        ),
        readings={(f"l{n}", c): v + n for n in (1, 2) for c, v in (("temperature", 180.5), ("power", 3.5))},
    ),
    "underscores": _several(
        *(
            (f"sens/{m}_{c}/value", str(v).encode())
            for m, c, v in (
                ("press1", "temp", 20.5),
                ("press1", "rms", 0.5),
                ("press2", "temp", 21.5),
                ("press2", "rms", 0.75),
            )
        ),
        readings={
            ("press1", "temp"): 20.5,
            ("press1", "rms"): 0.5,
            ("press2", "temp"): 21.5,
            ("press2", "rms"): 0.75,
        },
    ),
    "depths": _several(
        ("plc/motor1/temp", b"20.5"),
        ("plc/motor1/drive/current", b"1.5"),
        ("plc/motor2/temp", b"22.5"),
        ("plc/motor2/drive/current", b"2.5"),
        readings={
            ("motor1", "temp"): 20.5,
            ("motor1", "current"): 1.5,
            ("motor2", "temp"): 22.5,
            ("motor2", "current"): 2.5,
        },
    ),
    "uns": _several(
        *(
            (f"Enterprise/Dallas/Press/Line 1/Cell{k}/{t}", {"value": v + k, "timestamp": NOW * 1000})
            for k in (1, 2)
            for t, v in (("Speed", 12.5), ("Torque", 3.5))
        ),
        readings={(f"c{k}", t): v + k for k in (1, 2) for t, v in (("Speed", 12.5), ("Torque", 3.5))},
    ),
    "joined_in_payload": _several(
        *(
            ("tagstream", {"tag": f"{m}/{c}", "v": v, "t": NOW * 1000})
            for m, c, v in (("mixA", "rpm", 20.5), ("mixA", "amps", 0.5), ("mixB", "rpm", 21.5))
        ),
        readings={("mixA", "rpm"): 20.5, ("mixA", "amps"): 0.5, ("mixB", "rpm"): 21.5},
    ),
    "mixed_types": _several(
        *(
            (f"mx/dev/{c}", v)
            for c, v in (
                ("temp", b"21.5"),
                ("running", b"true"),
                ("mode", b"AUTO"),
                ("speed", {"value": 3.5, "ts": NOW * 1000}),
            )
        ),
        readings={("dev", "temp"): 21.5, ("dev", "running"): 1, ("dev", "speed"): 3.5, ("dev", "mode"): 2},
    ),
    "errors_between": _several(
        ("eb/dev1", {"ts": NOW * 1000, "t": 21.5}),
        ("eb/dev1", b"ERROR: timeout"),
        ("eb/dev1", {"ts": NOW * 1000 + 1000, "t": 22.5}),
        readings={("dev1", "t"): (21.5, 22.5)},
    ),
}
"""Devices of our own, none of which is taken from anybody's documentation as it is."""


def misread(device: Device, readings: pl.DataFrame, places: Collection[int]) -> str:
    """What is wrong with the readings of a device's messages; empty if nothing is.

    Names may be any, as long as machines, and channels of a machine, are told apart.

    Args:
        device: what was sent.
        readings: what was read (`READINGS`), of other messages too.
        places: the `sequence` of this device's messages.
    """
    mine = readings.filter(pl.col("sequence").is_in(list(places)))
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in mine.iter_rows(named=True):
        found.setdefault((row["site"], row["machine"], row["channel"]), []).extend(row["values"])
    expected = {key: np.float32(values).tolist() for key, values in device.readings.items()}
    if sorted(expected.values()) != sorted(found.values()):
        return f"expected {expected}, got {found}"
    choices = [[key for key, values in found.items() if values == wanted] for wanted in expected.values()]
    for chosen in itertools.product(*choices):
        machines = {(machine, key[:2]) for (machine, _), key in zip(expected, chosen, strict=True)}
        if len(set(chosen)) == len(chosen) and len(machines) == len({m for m, _ in machines}) == len(
            {key for _, key in machines}
        ):
            return ""
    return f"names are mixed up: expected {expected}, got {found}"
