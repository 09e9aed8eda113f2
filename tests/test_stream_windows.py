"""Windows of a stream: stretches without gaps, labels in time, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from fml_lightning import UserError
from fml_lightning.connectors.codecs import WaveformBlock
from fml_lightning.connectors.codecs.waveform import encode_waveform
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.quality import Quality
from fml_lightning.connectors.readings import LABELS, READINGS
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.datamodules.spool import stream as spool_stream
from fml_lightning.datamodules.spool.inputs import Inputs
from fml_lightning.datamodules.spool.labels import CHANGING, UNKNOWN, UNLABELLED, Labels, read_labels
from fml_lightning.datamodules.spool.left_out import ORDINARY, Reason
from fml_lightning.datamodules.spool.stream import SpoolStream
from fml_lightning.datamodules.spool.stream_windows import StreamWindows
from fml_lightning.preprocessing import Block, Preprocessing, RawWindows, Windowing

BEGIN = 1_800_000_000_000_000  # µs since 1970
RATE = 1000.0  # Hz: a sample is 1000 µs
TOPICS = Topics((Topic("plant/{site}/{machine}/{channel}", WaveformBlock()),), (LabelTopic(),))


def ramp(begin: int, end: int) -> NDArray[np.float32]:
    """Samples that are their own number."""
    return np.arange(begin, end, dtype=np.float32)


def block(begin: int, end: int, late: float = 0.0, rate: float = RATE, timed: bool = True) -> Block:
    """Samples `begin` to `end` of a ramp, sent `late` µs after they are due."""
    return Block(BEGIN + round(begin * 1e6 / rate + late), rate, ramp(begin, end), timed)


# Labels -------------------------------------------------------------------------------------------------


def label_frame(*rows: tuple[float, str, str]) -> pl.DataFrame:
    """Labels from sample numbers, machines and labels."""
    times = [datetime.fromtimestamp(BEGIN / 1e6, UTC) + timedelta(milliseconds=at) for at, _, _ in rows]
    columns = {
        "sequence": [0] * len(rows),
        "time": times,
        "received": times,
        "site": ["plant"] * len(rows),
        "machine": [machine for _, machine, _ in rows],
        "label": [label for _, _, label in rows],
    }
    return pl.DataFrame(columns, schema=LABELS)


def test_a_window_has_the_label_that_holds_from_its_first_to_its_last_sample(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels = Labels("plant", ["normal", "outer"])
    # Out of order, "normal" said twice, one of no class, another machine's.
    labels.add(label_frame((50, "m", "outer"), (10, "m", "normal"), (20, "m", "normal"), (80, "m", "repair")))
    labels.add(label_frame((0, "other", "outer"), (90, "m", "repair")))
    first = np.array([0, 5, 10, 15, 45, 50, 75, 85])
    last = first + 9
    expected = [UNLABELLED, CHANGING, 0, 0, CHANGING, 1, CHANGING, UNKNOWN]
    assert labels.at("m", BEGIN + 1000 * first, BEGIN + 1000 * last).tolist() == expected
    assert labels.at("nobody", first, last).tolist() == [UNLABELLED] * 8
    assert labels.unknown == {"repair": 2}
    assert caplog.text.count("'repair' is none of the classes normal, outer") == 1
    labels.add(label_frame((50, "m", "normal")))  # a correction
    assert labels.at("m", np.array([BEGIN + 45_000]), np.array([BEGIN + 54_000])).tolist() == [0]


def test_a_label_that_says_that_nobody_knows_ends_the_one_before(caplog: pytest.LogCaptureFixture) -> None:
    labels = Labels("plant", ["normal", "outer"])
    labels.add(label_frame((10, "m", "outer"), (50, "m", "unlabelled"), (80, "m", "normal")))
    first = np.array([20, 45, 55, 75, 85])
    expected = [1, CHANGING, UNLABELLED, CHANGING, 0]
    assert labels.at("m", BEGIN + 1000 * first, BEGIN + 1000 * (first + 9)).tolist() == expected
    assert caplog.text == ""
    its_own = Labels("plant", ["normal", "unlabelled"])  # where it is a class like any other
    its_own.add(label_frame((10, "m", "unlabelled")))
    assert its_own.at("m", np.array([BEGIN + 20_000]), np.array([BEGIN + 29_000])).tolist() == [1]


def test_labels_from_files(tmp_path: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text("machine,time,label\nm,2026-03-01T08:30:00+01:00,normal\nm,2026-03-01T08:00:00.5Z,outer\n")
    frame = read_labels(csv)
    assert frame["time"].to_list() == [
        datetime(2026, 3, 1, 7, 30, tzinfo=UTC),
        datetime(2026, 3, 1, 8, 0, 0, 500_000, tzinfo=UTC),
    ]
    frame.write_parquet(tmp_path / "labels.parquet")
    assert read_labels(tmp_path / "labels.parquet").equals(frame)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("time,machine\n", r"bad\.csv: expected the columns time, machine and label, got time, machine$"),
        ("time,machine,label\n2026-03-01T08:30:00Z,,x\n", "column machine, row 1: expected a name"),
        ("time,machine,label\n2026-03-01T08:30:00Z,m,x\nyesterday,m,x\n", "column time, row 2: .*'yesterday'"),
        (
            "time,machine,label\n2026-03-01T08:30:00,m,x\n",
            "column time, row 1: expected an ISO time with an offset",
        ),
        ("time,machine,label\n,m,x\n", "column time, row 1: .*got None"),
        ("", "expected a CSV or Parquet file"),
    ],
)
def test_faults_in_label_files_are_named(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_labels(tmp_path / "bad.csv")


def test_label_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv: expected a CSV or Parquet file"):
        read_labels(tmp_path / "nowhere.csv")
    naive = pl.DataFrame({"time": [datetime(2026, 3, 1)], "machine": ["m"], "label": ["x"]})
    naive.write_parquet(tmp_path / "naive.parquet")
    with pytest.raises(
        UserError, match="column time: expected ISO times with an offset, or datetimes with a time"
    ):
        read_labels(tmp_path / "naive.parquet")


# Windows of a stream ------------------------------------------------------------------------------------


def raw(length: int, hop: int) -> Preprocessing:
    return Preprocessing(Windowing(length, hop), RawWindows())


def reading_frame(blocks: Sequence[Block], machine: str = "m", quality: int = 0) -> pl.DataFrame:
    times = [datetime.fromtimestamp(0, UTC) + timedelta(microseconds=b.time) for b in blocks]
    columns: dict[str, Any] = {
        "sequence": range(len(blocks)),
        "time": times,
        "received": times,
        "site": ["plant"] * len(blocks),
        "machine": [machine] * len(blocks),
        "channel": ["vibration"] * len(blocks),
        "sample_rate": [b.sample_rate for b in blocks],
        "values": [b.values.tolist() for b in blocks],
        "unit": [None] * len(blocks),
        "quality": [quality] * len(blocks),
    }
    return pl.DataFrame(columns, schema=READINGS)


@pytest.fixture
def stream() -> StreamWindows:
    return StreamWindows(
        raw(10, 5), 0.5, ["vibration"], Labels("plant", ["normal", "outer"]), Inputs([], 60.0), 100
    )


def test_early_and_late_windows_are_a_window_apart_in_time(stream: StreamWindows) -> None:
    stream.labels.add(label_frame((0, "m", "normal"), (50, "m", "outer")))
    stream.add(reading_frame([block(0, 100)]))
    (machine,) = stream.machines()
    by_class = [(side.x[side.label == k, 0].tolist()) for k in (0, 1) for side in (machine.early, machine.late)]
    # Nine windows of each class begin at 0, 5, … 40; the fourth ends at 25, and late ones begin at 35.
    assert by_class == [[0, 5, 10, 15], [35, 40], [50, 55, 60, 65], [85, 90]]


def test_windows_wait_for_labels_that_come_late(stream: StreamWindows) -> None:
    stream.add(reading_frame([block(0, 100)]))
    assert len(stream.machines()[0].early.label) == 0
    assert stream.left_out("m") == {Reason.NO_LABEL: 19}
    stream.labels.add(label_frame((0, "m", "normal")))
    assert len(stream.machines()[0].early.label) == 9
    assert stream.left_out("m") == {}
    stream.labels.add(label_frame((50, "m", "outer")))  # entered after the fact
    assert np.bincount(stream.machines()[0].early.label).tolist() == [4, 4]


def test_broken_windows_and_doubtful_readings_are_left_out(stream: StreamWindows) -> None:
    stream.labels.add(label_frame((0, "m", "normal")))
    values = ramp(0, 100)
    values[42] = np.nan
    stream.add(reading_frame([Block(BEGIN, RATE, values)]))
    assert stream.left_out("m") == {Reason.NOT_FINITE: 2}  # those that begin at 35 and 40
    flags = {Quality.RETAINED: Reason.RETAINED, Quality.IMPLAUSIBLE_TIME: Reason.IMPLAUSIBLE_TIME}
    for flag in (*flags, Quality.BAD):
        stream.add(reading_frame([block(200, 300)], quality=int(flag)))
    expected = {Reason.NOT_FINITE: 2, Reason.RETAINED: 1, Reason.IMPLAUSIBLE_TIME: 1, Reason.BAD: 1}
    assert stream.left_out("m") == expected
    assert Reason.BAD not in ORDINARY
    (machine,) = stream.machines()
    assert max(machine.late.x.max(), machine.early.x.max()) == 99
    assert np.isfinite(machine.early.x).all()
    assert np.isfinite(machine.late.x).all()


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_the_windows_of_a_machine_are_all_in_its_first_unit(stream: StreamWindows, at_once: int) -> None:
    stream.labels.add(label_frame((0, "m", "normal"), (0, "k", "normal")))
    units = pl.Series("unit", [None, "g", "m/s²", None, "g", "m/s²"], pl.String)
    own = reading_frame([block(10 * k, 10 * k + 10) for k in range(6)]).with_columns(units)
    others = reading_frame([block(0, 10), block(10, 20)], "k").with_columns(unit=pl.lit("m/s²"))
    rows = pl.concat([own, others])
    for part in rows.iter_slices(at_once):
        stream.add(part)
    assert stream.left_out("m")[Reason.OTHER_UNIT] == 2
    assert stream.left_out("k")[Reason.OTHER_UNIT] == 0
    machine = next(machine for machine in stream.machines() if machine.name == "m")
    begins = np.concatenate([machine.early.x, machine.late.x])[:, 0]
    # A window begins every 5 samples; none spans the place of a block that was left out.
    assert sorted(begins.tolist()) == [0, 5, 10, 30, 35, 40]


def test_scalars_are_no_windows(stream: StreamWindows) -> None:
    scalars = reading_frame([block(k, k + 1) for k in range(50)]).with_columns(
        sample_rate=pl.lit(None, pl.Float64)
    )
    stream.add(scalars)
    assert stream.machines() == []


def test_memory_is_bounded_and_the_newest_windows_stay() -> None:
    stream = StreamWindows(
        raw(10, 10), 0.5, ["vibration"], Labels("plant", ["normal", "outer"]), Inputs([], 60.0), 30
    )
    stream.labels.add(label_frame((5000, "m", "normal"), (20_000, "m", "outer")))
    for begin in range(0, 40_000, 500):
        stream.add(reading_frame([block(b, b + 25) for b in range(begin, begin + 500, 25)]))
        assert stream.cutter.cutters["m"].cutters["vibration"].held < 2 * 10
        stream.forget()
        assert sum(len(part) for part in stream._kept["m"]) <= 3 * 30
    (machine,) = stream.machines()
    windows = np.concatenate([machine.early.x, machine.late.x])
    labels = np.concatenate([machine.early.label, machine.late.label])
    assert windows[labels == 0].min() == 20_000 - 30 * 10
    assert windows[labels == 1].min() == 40_000 - 30 * 10


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_the_windows_do_not_depend_on_how_the_messages_lie_in_segments(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels come late, and windows are forgotten on the way: the state of a spool is what counts."""
    monkeypatch.setattr(spool_stream, "STEP", 20)
    messages = []
    for k in range(100):
        at = BEGIN + 30_000 * k
        messages.append(
            Message("plant/north/m/vibration", encode_waveform(ramp(30 * k, 30 * k + 30), RATE, time=at), at)
        )
        if k % 25 == 24:
            event = {
                "time": datetime.fromtimestamp((at - 700_000) / 1e6, UTC),
                "label": "normal" if k < 50 else "outer",
            }
            messages.append(Message("plant/north/m/events", msgspec.json.encode(event), at))
    windows = []
    for size in (at_once, len(messages)):
        folder = tmp_path / str(size)
        with Spool(folder) as spool:
            for begin in range(0, len(messages), size):
                spool.append(messages[begin : begin + size])
        write_topics(folder, TOPICS)
        stream = SpoolStream("north", folder, ["vibration"], ["normal", "outer"], raw(10, 10), 0.5, 90)
        stream.take_in()
        (machine,) = stream.machines()
        windows.append(np.concatenate([machine.early.x, machine.late.x]))
    assert 90 < len(windows[0]) < 180
    np.testing.assert_array_equal(windows[0], windows[1])
