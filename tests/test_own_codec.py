"""A codec of the user's own: written beside the configuration, recorded with, and read with in other processes."""

from __future__ import annotations

import importlib
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import LONG, NOW, flood, payloads, until

from fml_lightning.connectors import (
    Broker,
    Codec,
    CodecError,
    CodecSession,
    Decoder,
    Message,
    PartlyRead,
    Sample,
    Spool,
    StatefulCodec,
    Topic,
    Topics,
)
from fml_lightning.connectors.codecs import checked
from fml_lightning.connectors.messages import Messages
from fml_lightning.connectors.spool.dead_letters import DeadLetters
from fml_lightning.connectors.spool.inbox import Inbox
from fml_lightning.connectors.spool.recorder import Recorder
from fml_lightning.errors import UserError

MODULE = '''
from dataclasses import dataclass

from fml_lightning.connectors import Codec, CodecError, Sample


@dataclass(frozen=True)
class Gateway(Codec):
    """Payloads such as `rms=0.5;peak=1.5`."""

    scale: float = 1.0

    def decode(self, payload: bytes) -> list[Sample]:
        try:
            pairs = [pair.split("=") for pair in payload.decode().split(";") if pair]
            return [Sample(self.scale * float(value), channel=name) for name, value in pairs]
        except ValueError as error:
            raise CodecError(f"expected name=value;..., got {payload[:40]!r}") from error
'''
CONFIG = """
spool: spool
topics:
- template: gateway/{machine}
  site: north
  codec:
    class_path: gateway.Gateway
    init_args: {scale: 0.001}
"""
READ = """
from fml_lightning.connectors import SpoolSource
for batch in SpoolSource({spool!r}).new():
    for row in batch.readings.select("machine", "channel", "values").rows():
        print(*row)
"""


def python(program: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_codec_beside_the_configuration_records_and_reads(tmp_path: Path, broker: Broker) -> None:
    (tmp_path / "gateway.py").write_text(MODULE)
    (tmp_path / "record.yaml").write_text(CONFIG)
    login = "server.recorder"  # the publisher has another
    connection = [f"--connection.port={broker.port}", f"--connection.username={broker.username(login)}"]
    connection += [f"--connection.password_file={broker.password_file(login)}"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fml_lightning", "record", "--config", "record.yaml", *connection],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
        try:

            def has_begun() -> bool:
                text = (tmp_path / "output").read_text()
                assert process.poll() is None, text
                return "recording" in text

            until(has_begun)
            with flood(broker) as publisher:
                sent = [("gateway/fan", b"rms=500;peak=1500"), ("gateway/fan", b"rms"), ("gateway/b", b"t=2")]
                publisher.publish(sent)
            until(lambda: len(payloads(tmp_path / "spool")) == 3)
        finally:
            process.terminate()
            status = process.wait(LONG)
    assert status == 0, (tmp_path / "output").read_text()
    assert python(READ.format(spool="spool"), tmp_path).split("\n") == [
        "fan rms [0.5]",
        "fan peak [1.5]",
        "b t [0.0020000000949949026]",
        "",
    ]
    (letter,) = list(DeadLetters(tmp_path / "spool" / "dead_letters.jsonl"))
    assert letter.error == "expected name=value;..., got b'rms'"
    (tmp_path / "elsewhere").mkdir()
    said = python(READ.format(spool="../spool"), tmp_path / "elsewhere").splitlines()[-1]
    assert said.endswith(
        "codec gateway.Gateway: it cannot be imported (ModuleNotFoundError: No module named 'gateway');"
        " run in the folder that has gateway, or put that folder on PYTHONPATH"
    )


def test_a_module_that_breaks_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    texts = ("import sys; sys.exit(3)", "def", "import nothing_of_this_name", "raise OSError('no')")
    for number, text in enumerate(texts):
        (tmp_path / f"breaks{number}.py").write_text(text)
        description = b'{"readings": [{"codec": {"codec": "breaks%d.Mine"}}], "labels": []}' % number
        with pytest.raises(UserError, match=f"codec breaks{number}.Mine: it cannot be imported .*PYTHONPATH"):
            Topics.loads(description)


# Bugs -------------------------------------------------------------------------------------------------------


class SilentError(Exception):
    def __str__(self) -> str:
        raise ValueError


class EvilName(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise ValueError


def endless() -> Iterator[Sample]:
    return (Sample(1.0) for _ in itertools.count())


def endless_blocks() -> Iterator[Sample]:
    return (Sample(np.zeros(1 << 16, np.float32), None, 1.0) for _ in itertools.count())


def raising(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> None:
        raise error

    return raise_it


BUGS: dict[str, tuple[Callable[[], Any], str]] = {
    "an error": (raising(KeyError("x")), "KeyError: 'x'"),
    "an error that says nothing": (raising(SilentError()), "SilentError"),
    "an error that says much": (raising(ValueError("x" * 10_000)), "ValueError: xxx"),
    "the process's end": (raising(SystemExit(1)), "RuntimeError: the codec raised SystemExit"),
    "ctrl-c": (raising(KeyboardInterrupt()), "RuntimeError: the codec raised KeyboardInterrupt"),
    "the end of everything": (raising(BaseException()), "RuntimeError: the codec raised BaseException"),
    "endless recursion": (raising(RecursionError()), "RecursionError"),
    "endless samples": (endless, "TypeError: expected at most 1,048,576 samples"),
    "endless blocks": (endless_blocks, "TypeError: expected at most .* 16,777,216 numbers in one message"),
    "none": (lambda: None, "TypeError"),
    "no samples": (lambda: [1.0], "TypeError: expected samples; the codec returned 1.0"),
    "no number": (lambda: [Sample(1e300)], "TypeError: expected values"),
    "no rate": (lambda: [Sample(np.ones(2, np.float32), None, float("nan"))], "TypeError: expected a sample rate"),
    "a name too long": (lambda: [Sample(1.0, channel="x" * 10_000)], "at most 256 characters each, got 10000"),
    "an error with bugs": (raising(CodecError("half", [Sample(None)])), "TypeError: expected values"),  # type: ignore[arg-type]
}


class Buggy(Codec):
    def decode(self, payload: bytes) -> Sequence[Sample]:
        found: Sequence[Sample] = BUGS[payload.decode()][0]() if payload != b"good" else [Sample(1.0)]
        return found


class BuggySession(CodecSession):
    """One whose other methods break too."""

    def decode(self, topic: str, payload: bytes) -> Sequence[Sample]:
        if payload in (b"good", b"a name too long"):
            return [Sample(s.values, None, None, s.channel or "x", "m", "n") for s in Buggy().decode(payload)]
        return Buggy().decode(payload)

    def requests(self, now: float) -> list[tuple[str, bytes]]:
        raise SystemExit(2)

    def state(self) -> bytes:
        raise SystemExit(3)


class BuggyStateful(StatefulCodec):
    def session(self) -> CodecSession:
        return BuggySession()


@pytest.mark.parametrize("codec", [Buggy(), BuggyStateful()])
def test_no_bug_of_a_codec_ends_the_recording(tmp_path: Path, codec: Codec | StatefulCodec) -> None:
    inbox = Inbox(1 << 30)
    with Spool(tmp_path) as spool:
        decoder = Decoder(Topics((Topic("plant/{site}/{machine}/x", codec),)))
        recorder = Recorder(inbox, spool, decoder, lambda _: None, lambda *_: True, 3, 0.01)
        for name in BUGS:
            inbox.put(Message("plant/n/m/x", name.encode(), NOW))
            inbox.put(Message("plant/n/m/x", b"good", NOW))
        inbox.close()
        recorder.start()
        assert recorder.finish(LONG)
    assert recorder.crashed is None
    assert recorder.committed == 2 * len(BUGS)
    letters = list(DeadLetters(tmp_path / "dead_letters.jsonl"))
    assert [letter.payload.decode() for letter in letters] == list(BUGS)
    for letter, (_, expected) in zip(letters, BUGS.values(), strict=True):
        assert re.search(expected, letter.error), letter.error
        assert len(letter.error) <= 300


@pytest.mark.parametrize("made", [None, 5])
def test_a_codec_that_makes_no_session_is_one_sentence(made: object) -> None:
    class Odd(StatefulCodec):
        def session(self) -> CodecSession:
            if made is None:
                raise OSError("no line")
            return made  # type: ignore[return-value]

    with pytest.raises(UserError, match=r"Odd: it makes no session: OSError: no line|a CodecSession, got 5"):
        Decoder(Topics((Topic(codec=Odd()),)))


def decoded(codec: Codec, *payloads: bytes) -> list[list[float]]:
    messages = Messages.numbered([Message("plant/n/m/x", payload, NOW) for payload in payloads], 0)
    found = Decoder(Topics((Topic(codec=codec),))).decode(messages)
    assert not found.dead, found.dead
    values: list[list[float]] = found.batch.readings["values"].to_list()
    return values


def test_a_codec_may_use_its_buffer_again_and_take_every_other_sample() -> None:
    class Reuses(Codec):
        buffer = np.zeros(4, np.float32)

        def decode(self, payload: bytes) -> Sequence[Sample]:
            self.buffer[:] = list(payload)
            return [Sample(self.buffer[::2], None, 1.0)]

    assert decoded(Reuses(), b"\1\2\3\4", b"\5\6\7\x08") == [[1, 3], [5, 7]]


def test_a_name_may_be_any_kind_of_text_and_a_rate_any_kind_of_number() -> None:
    def decode(payload: bytes) -> Sequence[Sample]:
        block = np.ones(1, np.float32)
        return PartlyRead([Sample(block, None, 2, np.str_("c"), EvilName("m"))], {"a": "text"})

    found = checked.checked(decode)(b"")
    (sample,) = found
    assert (type(sample.sample_rate), type(sample.channel), type(sample.machine)) == (float, str, str)
    assert isinstance(found, PartlyRead)
    assert found.skipped == {"a": "text"}


# Descriptions -----------------------------------------------------------------------------------------------

FIELDS = """
from dataclasses import InitVar, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from fml_lightning.connectors import Codec


class Unit(Enum):
    BAR = "bar"


@dataclass(frozen=True)
class Axis:
    name: str = "x"


class Base(Codec):
    def decode(self, payload):
        return []


@dataclass(frozen=True)
class Good(Base):
    names: dict[int, str] = field(default_factory=lambda: {7: "rms"})
    unit: Unit = Unit.BAR
    axis: Axis = Axis("y")
    mark: bytes = b"\\xff"
    of_any_type: Any = ("a", 1)
    kinds: frozenset[str] = frozenset(("a", "b", "c", "d", "e"))


@dataclass(frozen=True)
class NaN(Base):
    missing: float = float("nan")


@dataclass(frozen=True)
class MaybeNaN(Base):
    missing: float | None = float("nan")


@dataclass(frozen=True)
class Place(Base):
    file: Path = Path("scales.csv")


@dataclass(frozen=True)
class Unkept(Base):
    once: InitVar[int] = 3


@dataclass(frozen=True)
class Grows(Base):
    name: str = "a"

    def __post_init__(self):
        object.__setattr__(self, "name", self.name + "!")


@dataclass(frozen=True)
class Collides(Base):
    codec: str = "utf-8"
"""


def test_a_codec_that_another_process_would_not_make_again_is_refused_before_anything_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fields_of_codecs.py").write_text(FIELDS)
    monkeypatch.syspath_prepend(tmp_path)
    module: Any = importlib.import_module("fields_of_codecs")
    good = Topics((Topic(codec=module.Good()),))
    again = Topics.loads(good.dumps())
    codec: Any = again.readings[0].codec
    assert (codec.names, codec.unit, codec.axis) == ({7: "rms"}, module.Unit.BAR, module.Axis("y"))
    assert again.dumps() == good.dumps()
    for name in ("NaN", "MaybeNaN", "Place", "Unkept", "Grows", "Collides"):
        with pytest.raises(UserError, match=f"fields_of_codecs.{name}: expected fields that JSON can hold"):
            Topics((Topic(codec=getattr(module, name)()),)).dumps()


def test_a_description_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "fields_of_codecs.py").write_text(FIELDS)
    program = "import fields_of_codecs as f, fml_lightning.connectors.codecs as c; print(c.describe(f.Good()))"
    assert len({python(program, tmp_path) for _ in range(3)}) == 1  # each hashes strings in its own way
