"""FirstOf and Ignore: two formats on one topic, and topics of which nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fml_lightning.commands.process import parser, settings_of
from fml_lightning.connectors import (
    MQTT,
    Codec,
    CodecError,
    FirstOf,
    Ignore,
    InfluxLine,
    JSONBatch,
    JSONObject,
    JSONScalar,
    PartlyRead,
    RawSamples,
    Sample,
    SparkplugB,
    Topic,
    Topics,
)
from fml_lightning.connectors.codecs import describe, from_description, is_ours
from fml_lightning.connectors.codecs.codec import LONGEST_ERROR
from fml_lightning.errors import UserError

OLD_OR_NEW = FirstOf((JSONObject(value="v"), JSONObject(value="value", time_unit="s"), InfluxLine()))


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"v": 1.5, "time": 1000}', [Sample(1.5, 1_000_000)]),
        (b'{"value": 2, "time": 1}', [Sample(2.0, 1_000_000)]),
        (b"m rms=3", [Sample(3.0, channel="m/rms")]),
        (b"", []),
    ],
)
def test_the_first_that_reads_anything_reads(payload: bytes, expected: Sequence[Sample]) -> None:
    assert list(OLD_OR_NEW.decode(payload)) == expected


def test_what_nobody_reads_says_why_of_each() -> None:
    with pytest.raises(CodecError) as error:
        OLD_OR_NEW.decode(b'{"w": 1}' + b" " * 10_000)
    assert not error.value.samples
    text = str(error.value)
    assert text.startswith("expected what one of 3 codecs reads; JSONObject: ")
    assert "an object with v, got" in text
    assert "an object with value, got" in text
    assert "; InfluxLine: line 1: " in text
    assert len(text) <= LONGEST_ERROR


def test_a_message_that_is_read_in_part_is_not_read_by_another_codec() -> None:
    codec = FirstOf((JSONBatch(value="v"), JSONObject(value="*")))
    with pytest.raises(CodecError, match="object 1") as error:
        codec.decode(b'[{"v": 1}, {"v": "x"}]')
    assert error.value.samples == [Sample(1.0)]


def test_who_accepts_without_reading_leaves_it_to_others_and_then_has_its_say() -> None:
    every = FirstOf((JSONObject(value="*"), JSONObject(value="state")))
    left = every.decode(b'{"mode": "auto"}')
    assert isinstance(left, PartlyRead)
    assert left.skipped == {"mode": "text"}  # the second refuses it, so what the first leaves out is counted
    assert FirstOf((JSONObject(), Ignore())).decode(b"garbage") == ()


def test_ignore_reads_nothing_and_refuses_nothing() -> None:
    assert [Ignore().decode(payload) for payload in (b"", b"x", b"\xff" * 1000)] == [(), (), ()]


@dataclass(frozen=True)
class Wrong(Codec):
    """A codec of the user's own that returns a number of a wrong type."""

    def decode(self, payload: bytes) -> Sequence[Sample]:
        return [Sample(1)]


def test_codecs_of_the_users_own_are_checked_within_too() -> None:
    assert is_ours(FirstOf((JSONObject(), Ignore())))
    assert not is_ours(FirstOf((JSONObject(), FirstOf((Wrong(),)))))


@pytest.mark.parametrize(
    "codec",
    [
        OLD_OR_NEW,
        FirstOf((FirstOf((RawSamples(1.0, "int16", channels=("x", "y")),)), Ignore())),
        FirstOf((Wrong(), JSONObject(value=("a", "b")))),
        Ignore(),
        RawSamples(1.0, channels=("x", "y", "z")),
    ],
)
def test_descriptions_make_the_same_codec_again(codec: Codec) -> None:
    assert from_description(msgspec.json.decode(msgspec.json.encode(describe(codec)))) == codec
    topics = Topics((Topic("b"), Topic("a", codec)))
    assert Topics.loads(topics.dumps()) == topics


@pytest.mark.parametrize(
    ("description", "match"),
    [
        ({}, "FirstOf: .*codecs"),
        ({"codecs": []}, "expected at least one codec, got none"),
        ({"codecs": 3}, "Expected `array`, got `int`"),
        ({"codecs": [3]}, "FirstOf.codecs: expected codecs, each described by name and options, got 3"),
        ({"codecs": [{"codec": "SparkplugB"}]}, "Expected `Codec`, got `SparkplugB`"),
        ({"codecs": [{"codec": "JSONObject", "valu": "x"}]}, "JSONObject: expected options among"),
        ({"codecs": [{"codec": "Pickle"}]}, "codec: expected one of .*FirstOf"),
    ],
)
def test_a_bad_description_is_refused(description: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        from_description({"codec": "FirstOf", **description})


def test_bad_configurations() -> None:
    with pytest.raises(UserError, match="expected at least one codec"):
        FirstOf(())
    with pytest.raises(UserError, match="expected codecs that remember nothing, got SparkplugB"):
        FirstOf((SparkplugB(),))  # type: ignore[arg-type]


YAML = """
spool: nowhere
topics:
- template: p/{machine}/{channel}
  codec:
    class_path: FirstOf
    init_args:
      codecs:
      - {class_path: JSONObject, init_args: {value: "*"}}
      - {class_path: fml_lightning.connectors.RawSamples, init_args: {sample_rate: 100, channels: [x, y]}}
      - class_path: FirstOf
        init_args: {codecs: [InfluxLine, {class_path: Ignore}]}
- {template: p/noise/#, codec: Ignore}
- {template: p/plain}
"""


def configured(folder: Path, text: str) -> Sequence[Topic]:
    """The topics that `fml record --config` makes of a YAML file."""
    file = folder / "record.yaml"
    file.write_text(text)
    options = parser("record")
    options.add_class_arguments(MQTT, as_group=False)
    topics: Sequence[Topic] = settings_of(options, ["--config", str(file)])["topics"]
    return topics


def test_the_command_line_builds_codecs_within_codecs(tmp_path: Path) -> None:
    first, noise, plain = configured(tmp_path, YAML)
    inner = FirstOf((InfluxLine(), Ignore()))
    assert first.codec == FirstOf((JSONObject(value="*"), RawSamples(100.0, channels=("x", "y")), inner))
    assert noise.codec == Ignore()
    assert plain.codec == JSONScalar()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ("class_path: JSONObjct", "JSONObjct"),
        (
            "class_path: JSONObject, init_args: {time_unit: h}",
            "time_unit: expected s or ms or us or ns or iso, got h",
        ),
        ("class_path: SparkplugB", "SparkplugB"),
    ],
)
def test_a_wrong_codec_within_a_codec_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, match: str
) -> None:
    with pytest.raises(SystemExit):
        configured(tmp_path, YAML.replace("InfluxLine", f"{{{wrong}}}"))
    assert match in capsys.readouterr().err
