"""The state of a stream cutter: another cutter that is given it goes on bit by bit as the first would have."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import random
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from fml_lightning.connectors.quality import Quality
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.stream_cutter import StreamCutter, StreamCutterState
from fml_lightning.preprocessing import FaultLines, LogBandPowers, Preprocessing, Windowing, packed
from fml_lightning.preprocessing import covered as covered_module
from fml_lightning.preprocessing import seen as seen_module
from fml_lightning.preprocessing import window_cutter as cutter_module

BEGIN = 1_800_000_000_000_000  # µs since 1970
RATE = 1000.0

CUTTERS = {
    "overlapping": Preprocessing(Windowing(length=100, hop=37), LogBandPowers(2), ("x",), RATE),
    "apart": Preprocessing(Windowing(length=20, hop=90), LogBandPowers(2), ("x",)),
    "resampled": Preprocessing(Windowing(length=64, hop=40), LogBandPowers(2), ("x",), 640.0, resample=True),
    "channels": Preprocessing(Windowing(length=50, hop=50), LogBandPowers(2), ("x", "y", "z"), RATE),
    "told": Preprocessing(Windowing(length=50, hop=25), FaultLines(), ("x",), RATE),
}


def cutter_of(name: str) -> StreamCutter:
    """A cutter that has cut nothing."""
    preprocessing = CUTTERS[name]
    needs = ("shaft_speed",) if name == "told" else ()
    return StreamCutter(preprocessing, preprocessing.channels, needs, Inputs(needs, 2.0))


def stream(name: str, seed: int, blocks: int) -> pl.DataFrame:
    """Readings of three machines with all that devices do: gaps, jitter, whole seconds, repeats, no time, NaN."""
    generator = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for machine, jitter in (("a", 0.0), ("b", 8000.0), ("c", 0.0)):
        at = 0
        for number in range(blocks):
            size = generator.choice([10, 30, 30, 30, 77, 200])
            at += generator.choice([0, 0, 0, 0, 0, 0, 45, 3000])
            time = BEGIN + at * 1000 + round(generator.uniform(-jitter, jitter))
            if machine == "c":
                time = time // 1_000_000 * 1_000_000
            quality = Quality.NO_DEVICE_TIME if machine == "b" and number % 9 == 0 else Quality(0)
            for channel in CUTTERS[name].channels:
                values = np.random.default_rng([seed, at, ord(channel)]).normal(size=size).astype(np.float32)
                if generator.random() < 0.02:
                    values[0] = np.nan
                rate = 2 * RATE if generator.random() < 0.03 and name != "resampled" else RATE
                row = (machine, channel, time, rate, values.tolist(), int(quality))
                rows.append(dict(zip(SCHEMA, (*row[:2], "g", *row[2:4], row[4], row[5], BEGIN), strict=True)))
            if name == "told" and generator.random() < 0.3:
                rows.append(
                    dict(zip(SCHEMA, (machine, "shaft_speed", None, time, None, [20.0], 0, BEGIN), strict=True))
                )
            at += size
    # Most come in order, some late, some twice; each machine's by itself.
    order = sorted(range(len(rows)), key=lambda i: rows[i]["time"] + generator.choice([0] * 9 + [2_000_000]))
    rows = [rows[i] for i in order]
    rows += generator.sample(rows, len(rows) // 10)
    frame = pl.DataFrame(rows, schema=SCHEMA)
    return frame.with_columns(pl.col("time", "received").cast(pl.Datetime("us", "UTC")))


SCHEMA: dict[str, Any] = {
    "machine": pl.String,
    "channel": pl.String,
    "unit": pl.String,
    "time": pl.Int64,
    "sample_rate": pl.Float64,
    "values": pl.List(pl.Float32),
    "quality": pl.UInt16,
    "received": pl.Int64,
}


def cuts(cutter: StreamCutter, readings: pl.DataFrame) -> list[tuple[Any, ...]]:
    """All that a cutter gives, to the last bit."""
    return [
        (machine, cut.values.tobytes(), cut.start.tolist(), cut.place.tolist(), cut.sample_rate, told.tobytes())
        for machine, cut, told in cutter.add(readings)
    ]


def passed_on(name: str, cutter: StreamCutter) -> StreamCutter:
    """Another cutter with the state of one, which went through a snapshot's format."""
    other = cutter_of(name)
    other.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(cutter.state()), type=StreamCutterState))
    return other


def plain(value: Any, known: dict[int, int]) -> Any:
    """An object's graph as plain types; an object that was met before is the number of its first place."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, dict):
        return [(plain(key, known), plain(each, known)) for key, each in value.items()]
    if isinstance(value, list | tuple | deque):
        return [plain(each, known) for each in value]
    attributes = attributes_of(value)
    if attributes is None:
        return value.tolist() if hasattr(value, "tolist") else value
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = len(known)
    return [(key, plain(each, known)) for key, each in sorted(attributes.items()) if key != "_grids"]


def attributes_of(value: Any) -> dict[str, Any] | None:
    """The attributes of an object of this package that has some; else None."""
    if not type(value).__module__.startswith("fml_lightning.") or callable(value) or isinstance(value, Enum):
        return None
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(vars(value)) if hasattr(value, "__dict__") else None


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a short stream reaches."""
    monkeypatch.setattr(seen_module, "MOST", 20)
    monkeypatch.setattr(covered_module, "MOST", 12)
    monkeypatch.setattr(cutter_module, "MOST_OPEN", 6)
    monkeypatch.setattr(cutter_module, "MOST_HELD", 700)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CUTTERS)
def test_a_cutter_with_the_state_of_another_goes_on_as_that_would_have(name: str, seed: int) -> None:
    readings = stream(name, seed, 40)
    whole = cutter_of(name)
    generator = random.Random(seed)
    ends = sorted({*generator.sample(range(1, len(readings)), 25), len(readings)})
    passed, given = cutter_of(name), 0
    for begin, end in itertools.pairwise([0, *ends]):
        part = readings[begin:end]
        expected = cuts(whole, part)
        assert cuts(passed, part) == expected
        given += sum(len(each[2]) for each in expected)
        before = passed
        passed = passed_on(name, passed)
        assert passed.state() == before.state()
        assert plain(passed, {}) == plain(before, {})  # nothing is left behind
    assert given > 50
    assert passed.left_out == whole.left_out


def objects(value: Any, met: set[int]) -> Iterator[Any]:
    """The objects of this package that are part of another one."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | deque):
        for each in value:
            yield from objects(each, met)
        return
    attributes = attributes_of(value)
    if attributes is None or id(value) in met:
        return
    met.add(id(value))
    yield value
    for each in attributes.values():
        yield from objects(each, met)


DERIVED = {
    # Arguments in another form.
    "StreamCutter": {"windowing", "inputs"},
    # They follow from the stretches, and from the sample rate.
    "WindowCutter": {"grids", "begins", "ends"},
    "Stretch": {"grid"},
}
"""Attributes that are in no state because they follow from others."""
FIXED = {"Preprocessing", "Windowing", "WindowGrid", "Resampling", "LogBandPowers", "FaultLines", "_Moments"}
"""Classes whose objects are made of arguments alone, or follow from others."""


@pytest.mark.parametrize("name", CUTTERS)
def test_every_attribute_is_an_argument_or_in_the_state(name: str) -> None:
    """Whoever gives a class of the cutter a new attribute must say what becomes of it at a restart."""
    cutter = cutter_of(name)
    cuts(cutter, stream(name, 0, 20))
    kinds = set()
    for value in objects(cutter, set()):
        kind = type(value)
        if kind.__name__ in FIXED or issubclass(kind, tuple):  # a tuple can have no other attribute
            continue
        kinds.add(kind.__name__)
        state = {"times", "values"} if kind is Inputs else set(msgspec.structs.asdict(value.state()))
        arguments = set(inspect.signature(kind.__init__).parameters)
        if dataclasses.is_dataclass(value):
            arguments = set()
        own = {attribute.lstrip("_") for attribute in attributes_of(value) or ()}
        if kind is Inputs:
            own -= {"said"}  # which a state is a list of
        assert own <= state | arguments | DERIVED.get(kind.__name__, set()), kind
    assert kinds >= {"StreamCutter", "ChannelsCutter", "WindowCutter", "Stretch", "Seen", "Covered", "Inputs"}


# What is no state -------------------------------------------------------------------------------------------


def told_state(name: str = "told") -> dict[str, Any]:
    """A state as a file has it."""
    cutter = cutter_of(name)
    cuts(cutter, stream(name, 0, 20))
    decoded: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(cutter.state()))
    return decoded


def put(state: Any, path: list[Any], value: Any) -> None:
    """Change a state at a path."""
    for key in path[:-1]:
        state = state[key]
    state[path[-1]] = value


BAD: list[tuple[str, list[Any], Any, str]] = [
    (
        "told",
        ["cutters", "a", "cutters", "x", "newest", "tail", "shape"],
        [10**12],
        "expected 4000000000000 bytes",
    ),
    ("told", ["cutters", "a", "cutters", "x", "newest", "tail", "dtype"], "|O", "Invalid enum value"),
    ("told", ["cutters", "a", "cutters", "x", "newest", "tail", "dtype"], "<f8", "bytes for an array"),
    ("told", ["cutters", "a", "cutters", "x", "newest", "next"], -(10**15), "Expected `int` >= 0"),
    ("told", ["cutters", "a", "cutters", "x", "lasting"], [99], "got one of none"),
    ("told", ["cutters", "a", "cutters", "x", "by_stamp"], [99], "got one of none"),
    ("told", ["cutters", "a", "cutters", "x", "seen"], None, "Expected `object`"),
    ("told", ["cutters", "a", "cutters"], {}, "expected channels x, got "),
    ("channels", ["cutters", "a", "waiting"], {"x": [], "y": []}, "expected channels x, y, z"),
    ("told", ["left_out"], {"a": {"NO_REASON": 1}}, "expected reasons of what is left out, got NO_REASON"),
    ("told", ["inputs", 0, "times"], {"dtype": "<i8", "shape": [0], "data": b""}, "a value for each time"),
    ("told", ["type"], "rows", "Invalid value 'rows'"),
]


@pytest.mark.parametrize(("name", "path", "value", "message"), BAD)
def test_what_no_cutter_has_is_refused(name: str, path: list[Any], value: Any, message: str) -> None:
    state = told_state(name)
    put(state, path, value)
    with pytest.raises((ValueError, msgspec.ValidationError), match=message):
        cutter_of(name).restore(msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=StreamCutterState))


def test_windows_that_wait_have_the_shape_of_the_cutter() -> None:
    state = told_state()
    machine, awaiting = next(iter(state["awaiting"].items()))
    shape = awaiting[0][0]["shape"]
    assert shape == [1, 1, 50]
    awaiting[0][0]["shape"] = [1, 50, 1]
    with pytest.raises(ValueError, match="expected one window of each channel"):
        cutter_of("told").restore(msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=StreamCutterState))
    assert machine in state["cutters"]


@pytest.mark.parametrize("array", [np.float32([1, np.nan, -0.0]), np.int64([[2**62], [-1]]), np.empty((0, 3))])
def test_arrays_are_kept_bit_by_bit(array: NDArray[Any]) -> None:
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(packed.Packed.of(array)), type=packed.Packed)
    again = kept.array(array.dtype.type, array.ndim)
    assert (again.dtype, again.shape, again.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert again.flags.writeable
    with pytest.raises(ValueError, match="expected an array of 5 dimensions"):
        kept.array(array.dtype.type, 5)


def test_a_machine_that_is_forgotten_begins_anew() -> None:
    cutter, fresh = cutter_of("told"), cutter_of("told")
    cuts(cutter, stream("told", 0, 20))
    for machine in ("a", "b", "c"):
        assert f"{machine}\0x" in cutter.units
        cutter.forget(machine)
    assert cutter.state() == fresh.state()


def test_a_device_whose_sample_rate_is_never_the_same_takes_no_more_memory() -> None:
    """One that measures its own rate has another one in each block."""
    cutter = cutter_of("apart")
    rows = [
        ("a", "x", "g", BEGIN + number * 30_000, RATE + number / 1000, [0.0] * 30, 0, BEGIN)
        for number in range(200)
    ]
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    cuts(cutter, frame.with_columns(pl.col("time", "received").cast(pl.Datetime("us", "UTC"))))
    assert len(cutter.cutters["a"].cutters["x"]._grids) == cutter_module.MOST_KINDS
