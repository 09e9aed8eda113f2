"""Payloads that devices really send, read by configuration alone: packed, wrapped, Influx, SenML, two formats."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from test_decoder import frame
from test_first_of import configured

from fml_lightning.connectors import Decoder, Topics

TIME = 1_795_693_658_583
"""ms since 1970, as in the payloads."""


class Case(NamedTuple):
    """A message, the topics that read it, and the readings that a person expects."""

    topic: str
    payload: bytes
    yaml: str
    rows: Sequence[tuple[str, str, list[float]]]


CASES = {
    "interleaved int16 of three axes": Case(
        "p/n/m/raw",
        bytes.fromhex("010002000300040005000600"),
        """
- template: p/{site}/{machine}/{channel}
  codec: {class_path: RawSamples, init_args: {sample_rate: 1000, dtype: int16, channels: [x, y, z]}}
""",
        [("m", "raw/x", [1, 4]), ("m", "raw/y", [2, 5]), ("m", "raw/z", [3, 6])],
    ),
    "big-endian, scaled, in base64": Case(
        "p/n/m/raw",
        base64.b64encode(bytes.fromhex("0001fffe")),
        """
- template: p/{site}/{machine}/{channel}
  codec: {class_path: RawSamples, init_args: {sample_rate: 1000, dtype: int16, byte_order: big, scale: 0.5}}
  unwrap: [base64]
""",
        [("m", "raw", [0.5, -1.0])],
    ),
    "gzip of JSON": Case(
        "p/n/m/s",
        bytes.fromhex("1f8b08005a1c086b02ffab562aca2d56b232d433ad05003a1c23e20b000000"),
        """
- template: p/{site}/{machine}/{channel}
  codec: {class_path: JSONObject, init_args: {value: "*"}}
  unwrap: [gzip]
""",
        [("m", "s/rms", [1.5])],
    ),
    "zlib in hex": Case(
        "p/n/m/s",
        zlib.compress(b"2.5").hex().encode(),
        "- {template: 'p/{site}/{machine}/{channel}', unwrap: [hex, zlib]}",
        [("m", "s", [2.5])],
    ),
    "Influx": Case(
        "t/x",
        b"m,machine=p1 rms=1.5 1795693658583000000",
        """
- template: t/#
  codec: {class_path: InfluxLine, init_args: {machine_tag: machine}}
  site: n
""",
        [("p1", "x/m/rms", [1.5])],
    ),
    "Influx with an axis": Case(
        "t/x",
        b"m,machine=p1,axis=x rms=1.5 1795693658583000000\nm,machine=p1,axis=y rms=1.5 1795693658583000000",
        """
- template: t/x
  codec: {class_path: InfluxLine, init_args: {machine_tag: machine}}
  site: n
""",
        [("p1", "m,axis=x/rms", [1.5]), ("p1", "m,axis=y/rms", [1.5])],
    ),
    "SenML": Case(
        "senml",
        msgspec.json.encode(
            [{"bn": "p1:", "bt": TIME / 1000, "n": "x", "u": "g", "v": 1.5}, {"n": "on", "vb": True}]
        ),
        """
- template: senml
  codec: {class_path: SenML, init_args: {pattern: "{machine}:{channel}"}}
  site: n
""",
        [("p1", "x", [1.5]), ("p1", "on", [1.0])],
    ),
}
TWO_FORMATS = """
- template: f/{machine}
  site: n
  codec:
    class_path: FirstOf
    init_args:
      codecs:
      - {class_path: JSONObject, init_args: {value: "*"}}
      - {class_path: InfluxLine, init_args: {}}
      - {class_path: RawSamples, init_args: {sample_rate: 10, dtype: int16, channels: [x, y]}}
"""
CASES |= {
    f"two formats: {name}": Case("f/m", payload, TWO_FORMATS, rows)
    for name, payload, rows in (
        ("JSON", b'{"rms": 1.5}', [("m", "rms", [1.5])]),
        ("Influx", b"vib rms=2.5", [("m", "vib/rms", [2.5])]),
        ("raw", bytes.fromhex("01000200"), [("m", "x", [1.0]), ("m", "y", [2.0])]),
    )
}


def decoded(folder: Path, case: Case) -> Sequence[tuple[str, str, list[float]]]:
    topics = Topics(tuple(configured(folder, f"spool: nowhere\ntopics:\n{case.yaml}")))
    again = Topics.loads(topics.dumps())  # as a reader of the spool has them
    assert again == topics
    found = Decoder(again).decode(frame((case.topic, case.payload)))
    assert not found.dead
    return found.batch.readings.select("machine", "channel", "values").rows()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_payload_is_read_by_configuration_alone(tmp_path: Path, case: Case) -> None:
    assert decoded(tmp_path, case) == [(m, c, [float(np.float32(v)) for v in vs]) for m, c, vs in case.rows]


def test_units_and_times_of_senml(tmp_path: Path) -> None:
    topics = Topics(tuple(configured(tmp_path, f"spool: nowhere\ntopics:\n{CASES['SenML'].yaml}")))
    batch = Decoder(topics).decode(frame(("senml", CASES["SenML"].payload))).batch
    assert batch.readings["unit"].to_list() == ["g", None]
    assert [time.timestamp() * 1000 for time in batch.readings["time"]] == [TIME, TIME]


def test_a_bomb_and_a_wrapper_that_is_none_are_dead_letters(tmp_path: Path) -> None:
    topics = Topics(tuple(configured(tmp_path, f"spool: nowhere\ntopics:\n{CASES['gzip of JSON'].yaml}")))
    bomb = gzip.compress(bytes(64 << 20))
    found = Decoder(topics).decode(frame(("p/n/m/s", bomb), ("p/n/m/s", b'{"rms": 1}')))
    faults = [letter.error for letter in found.dead]
    assert "gzip: expected at most 16,777,216 bytes" in faults[0]
    assert "gzip: expected gzip data, got '{\"rms\": 1}'" in faults[1]
