"""Recorded data as if they came live: tables of measurements, and spools that are published again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fml_lightning.connectors import LABELS, MQTT, READINGS, Connection, JSONObject, Message, Quality, Spool, Topic
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.pace import Pace
from fml_lightning.connectors.plant.replay import Replay
from fml_lightning.connectors.plant.republish import republish
from fml_lightning.errors import UserError
from tests.probes import spooled, until

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SECOND = 1_000_000


def table(tmp_path: Path, content: str | pl.DataFrame) -> Path:
    """A file of a table: CSV if it is text, else Parquet."""
    if isinstance(content, str):
        file = tmp_path / "log.csv"
        file.write_text(content)
    else:
        file = tmp_path / "log.parquet"
        content.write_parquet(file)
    return file


def replayed(file: Path, **options: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All readings and labels; their schemas are those of every source."""
    with Replay(file, **options) as source:
        batches = list(source)
    for batch in batches:
        assert batch.readings.schema == READINGS
        assert batch.labels.schema == LABELS
    return (
        pl.concat([READINGS.to_frame(), *(batch.readings for batch in batches)]),
        pl.concat([LABELS.to_frame(), *(batch.labels for batch in batches)]),
    )


def short(readings: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Seconds after noon, channel and first sample of each reading."""
    return [
        ((moment - NOON).total_seconds(), channel, samples[0])
        for moment, channel, samples in readings.select("time", "channel", "values").iter_rows()
    ]


# Tables -----------------------------------------------------------------------------------------------------


def test_a_wide_csv(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        "time,flow,rpm,note\n"
        "2024-05-01T12:00:01Z,1.5,100,\n"
        "2024-05-01T12:00:00Z,1,,new seal\n"  # out of order, and a value is missing
        "2024-05-01T14:00:02+02:00,2,300,\n",
    )
    readings, labels = replayed(file, site="north", machine="pump")
    assert short(readings) == [(0, "flow", 1), (1, "flow", 1.5), (1, "rpm", 100), (2, "flow", 2), (2, "rpm", 300)]
    assert readings["sequence"].to_list() == [0, 1, 1, 2, 2]
    assert readings["received"].equals(readings["time"])
    assert set(readings.select("site", "machine", "sample_rate", "quality").rows()) == {("north", "pump", None, 0)}
    assert labels.is_empty()


def test_a_wide_parquet_with_names_labels_and_columns_that_are_no_channels(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        pl.DataFrame(
            {
                "ts": [NOON, NOON + timedelta(seconds=1), NOON + timedelta(seconds=2)],
                "site": ["n", "n", "s"],
                "machine": [7, 7, 8],
                "label": ["normal", None, "outer"],
                "on": [True, False, None],
                "flow": [1.0, math.nan, math.inf],
                "installed": [date(2020, 1, 1)] * 3,
                "seen": [NOON] * 3,
                "block": [[1.0, 2.0]] * 3,
                "kind": pl.Series(["a", "b", "c"], dtype=pl.Categorical),
                "received": [1, 2, 3],
            }
        ),
    )
    readings, labels = replayed(file, time="ts")
    assert repr(short(readings)) == repr(
        [(0.0, "on", 1.0), (0.0, "flow", 1.0), (1.0, "on", 0.0), (1.0, "flow", math.nan), (2.0, "flow", math.inf)]
    )
    bad = int(Quality.NOT_FINITE)
    assert readings["quality"].to_list() == [0, 0, 0, bad, bad]
    assert readings.select("site", "machine").rows() == [*[("n", "7")] * 4, ("s", "8")]
    assert labels.drop("received").rows() == [
        (0, NOON, "n", "7", "normal"),
        (2, NOON + timedelta(seconds=2), "s", "8", "outer"),
    ]


def test_a_long_csv(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        "time,channel,value,machine,label\n"
        "1714564800,flow,1,pump,\n"
        "1714564801.5,rpm,2.5,fan,\n"
        "1714564802,,,fan,outer\n"  # only a label
        "1714564803,rpm,,fan,\n",  # no value, so no reading
    )
    readings, labels = replayed(file)
    assert short(readings) == [(0, "flow", 1), (1.5, "rpm", 2.5)]
    assert readings["machine"].to_list() == ["pump", "fan"]
    assert labels.drop("received").rows() == [(2, NOON + timedelta(seconds=2), "site", "fan", "outer")]


def test_a_long_parquet_with_blocks(tmp_path: Path) -> None:
    blocks = [[1.0, 2.0, 3.0], [4.0, None], [], None]
    file = table(
        tmp_path,
        pl.DataFrame({"time": [NOON] * 4, "channel": ["v"] * 4, "values": blocks, "sample_rate": [100] * 4}),
    )
    readings, _ = replayed(file)
    assert repr(readings["values"].to_list()) == "[[1.0, 2.0, 3.0], [4.0, nan]]"  # a missing sample is flagged
    assert readings["quality"].to_list() == [0, int(Quality.NOT_FINITE)]
    assert readings["sample_rate"].to_list() == [100.0, 100.0]


def test_several_values_without_a_rate_are_no_reading(tmp_path: Path) -> None:
    rows = {"time": [NOON] * 2, "channel": ["v"] * 2, "values": [[1.0], [2.0, 3.0]]}
    with pytest.raises(UserError, match=r"row 1: expected a sample_rate, Hz, beside several values, got none"):
        replayed(table(tmp_path, pl.DataFrame(rows)))
    readings, _ = replayed(table(tmp_path, pl.DataFrame(rows)[:1]))
    assert readings.select("values", "sample_rate").rows() == [([1.0], None)]  # a scalar


def test_readings_that_were_written_can_be_replayed(tmp_path: Path) -> None:
    readings, _ = replayed(table(tmp_path, "time,flow\n2024-05-01T12:00:00Z,1\n2024-05-01T12:00:01Z,2\n"))
    again, _ = replayed(table(tmp_path, readings))
    assert again.equals(readings)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("2024-05-01T12:00:00Z", "s"),
        ("2024-05-01 12:00:00+00:00", "s"),
        ("2024-05-01T14:00:00.000+0200", "s"),
        ("2024-05-01T06:30:00.000000-05:30", "s"),
        ("2024-05-01T12:00Z", "s"),
        ("1714564800", "s"),
        ("1714564800.000", "s"),
        ("1714564800000", "ms"),
        ("1714564800000000", "us"),
    ],
)
def test_times_in_every_form(tmp_path: Path, text: str, unit: str) -> None:
    readings, _ = replayed(table(tmp_path, f"time,x\n{text},1\n"), time_unit=unit)
    assert short(readings) == [(0, "x", 1)]


def test_times_of_a_parquet_may_be_of_any_zone_and_precision(tmp_path: Path) -> None:
    for precision in ("ms", "us", "ns"):
        times = pl.Series([NOON]).dt.convert_time_zone("Europe/Berlin").dt.cast_time_unit(precision)
        readings, _ = replayed(table(tmp_path, pl.DataFrame({"time": times, "x": [1]})))
        assert short(readings) == [(0, "x", 1)]


def test_a_column_tells_its_type_by_all_its_rows(tmp_path: Path) -> None:
    rows = [f"{1714564800 + i},{i}" for i in range(200)]
    readings, _ = replayed(table(tmp_path, "\n".join(["time,x", *rows, "1714565000,0.25"])))
    assert readings["values"][-1].to_list() == [0.25]


def test_a_table_without_rows_says_nothing(tmp_path: Path) -> None:
    for header in ("time,x\n", "time,channel,value\n"):
        readings, labels = replayed(table(tmp_path, header))
        assert readings.is_empty()
        assert labels.is_empty()


def test_labels_of_a_row_with_many_channels_come_once(tmp_path: Path) -> None:
    rows = [f"{1714564800 + i},1,2,3,outer" for i in range(3)]
    _, labels = replayed(table(tmp_path, "\n".join(["time,x,y,z,label", *rows])))
    assert len(labels) == 3


def test_long_tables_come_in_batches(tmp_path: Path) -> None:
    count = 25_000
    times = pl.Series(np.arange(count) * 1000 + int(NOON.timestamp() * 1e6)).cast(pl.Datetime("us", "UTC"))
    file = table(tmp_path, pl.DataFrame({"time": times, "x": np.arange(count)}))
    with Replay(file) as source:
        lengths = [len(batch.readings) for batch in source]
    assert lengths == [10_000, 10_000, 5_000]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("when,x\n1,2\n", r"no column 'time'; set time to one of when, x"),
        ("time,x\n2024-05-01T12:00:00,1\n", r"row 0: expected a time in ISO 8601 with an offset.*12:00:00'"),
        (
            "time,x\n2024-05-01T12:00:00Z,1\n01.05.2024 12:00,1\n",
            r"row 1: expected a time .*got '01.05.2024 12:00'",
        ),
        ("time,x\nnoonZ,1\n", r"expected times in ISO 8601, got 'noonZ'"),
        ("time,x\n1,1\n,2\n", r"column 'time', row 1: expected a time, got none"),
        (
            "time,x\n1e300,1\n",
            r"row 0: expected a time between 1900 and 2262, got 1e\+300 \(s\); is time_unit right",
        ),
        ("time,x\n1,1\nNaN,2\n", r"row 1: expected a time between 1900 and 2262"),
        ("time,x\ntrue,1\n", r"expected times with a time zone, got Boolean"),
        ("time,note\n1,on\n2,off\n", r"no column of numbers beside 'time'"),
        ("time,x\n1,5\n2,high\n", r"column 'x', row 1: expected a number, got 'high'"),
        ("time,x\n9,5\n2,high\n3,6\n", r"column 'x', row 1: expected"),  # as in the file, not in order of time
        ("time,channel,x\n1,a,2\n", r"expected a column value or values beside channel"),
        ("time,channel,value\n1,a,high\n", r"expected numbers in value"),
        ("time,channel,value\n1,a,1\n2,a,high\n", r"column 'value', row 1: expected a number, got 'high'"),
        ("time,channel,values\n1,a,2\n", r"expected lists of numbers in values"),
        ("time,machine,x\n1,pump,2\n2,,3\n", r"column 'machine', row 1: expected a name, got none"),
        ("", r"expected CSV, got something else"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(UserError, match=match), Replay(table(tmp_path, text)):
        pass


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "junk.parquet").write_bytes(b"PAR1 junk PAR1")
    for name, match in (
        ("nowhere.csv", r"no such file"),
        ("nowhere.parquet", r"no such file"),
        ("junk.parquet", r"expected Parquet, got something else"),
        (".", r"no such file"),
    ):
        with pytest.raises(UserError, match=match), Replay(tmp_path / name):
            pass
    naive = pl.DataFrame({"time": [datetime(2024, 5, 1)], "x": [1]})
    with pytest.raises(UserError, match=r"expected times with a time zone, got Datetime"):
        replayed(table(tmp_path, naive))
    with pytest.raises(UserError, match=r"expected times with a time zone, got Date"):
        replayed(table(tmp_path, pl.DataFrame({"time": [date(2024, 5, 1)], "x": [1]})))


def test_bad_options() -> None:
    with pytest.raises(UserError, match=r"expected time_unit to be one of s, ms, us, got 'h'"):
        Replay("x.csv", time_unit="h")
    for speed in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match=r"speed: expected above 0"):
            Replay("x.csv", speed=speed)


# Pace -------------------------------------------------------------------------------------------------------


def test_speed_keeps_the_pace_of_what_was_measured(tmp_path: Path) -> None:
    file = table(tmp_path, "time,x,y\n" + "".join(f"{10 + i},{i},{i}\n" for i in range(4)))
    began = time.monotonic()
    with Replay(file, speed=10.0) as source:
        arrivals = [
            (time.monotonic() - began, batch.readings["values"].list.first().to_list()) for batch in source
        ]
    assert [value for _, values in arrivals for value in values] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(at >= values[-1] * 0.1 for at, values in arrivals)  # none early


def test_what_is_due_at_almost_the_same_time_comes_together() -> None:
    stop = threading.Event()
    moments = np.arange(1000) / 1000.0
    parts = list(Pace(5.0, stop).parts(moments))
    assert [i for part in parts for i in range(*part.indices(1000))] == list(range(1000))
    assert len(parts) <= 6  # a fifth of a second, in parts of at least 50 ms


def test_a_pace_goes_on_after_clocks_that_were_set() -> None:
    pace = Pace(1.0, threading.Event())
    began = time.monotonic()
    assert all(pace.wait(moment) for moment in (100.0, 50.0, 100.1))  # back is due at once
    assert time.monotonic() - began >= 0.1


def test_waiting_ends_when_the_source_is_closed(tmp_path: Path) -> None:
    source = Replay(table(tmp_path, "time,x\n0,1\n1000000000,2\n"), speed=1.0)
    with source as readings:
        batches = iter(readings)
        assert len(next(batches).readings) == 1
        threading.Timer(0.1, source._stop.set).start()
        assert list(batches) == []  # else the next one would come after thirty years
    assert len(replayed(source.file)[0]) == 2  # and it can be opened again


# A spool, published again -----------------------------------------------------------------------------------


def fill(folder: Path, messages: list[tuple[str, bytes]], gap: int = SECOND) -> None:
    """A spool of segments of three messages, received `gap` µs apart."""
    with Spool(folder) as spool:
        for i in range(0, len(messages), 3):
            spool.append([Message(t, p, (i + j) * gap) for j, (t, p) in enumerate(messages[i : i + 3])])


def rows(folder: Path) -> list[tuple[str, bytes]]:
    return spooled(folder).select("topic", "payload").rows()


def test_a_spool_that_is_published_and_recorded_again_is_the_same(tmp_path: Path, broker: Broker) -> None:
    messages = [(f"plant/n/m{i % 3}/x", bytes([i, 0, 255, i]) * i) for i in range(50)]
    fill(tmp_path / "one", messages)
    connection = broker.connection("server")
    seen: list[int] = []
    topic = Topic(codec=JSONObject())
    with MQTT(
        str(tmp_path / "other"), broker.connection("server.recorder"), [topic], commit_interval=0.1
    ) as recording:
        published = republish(tmp_path / "one", connection, threading.Event(), speed=None, on_progress=seen.append)
        assert published == 50
        assert seen == list(range(1, 51))
        until(lambda: recording.status().committed == 50)
    assert rows(tmp_path / "other") == messages


def test_a_spool_that_records_its_own_replay_comes_to_an_end(tmp_path: Path, broker: Broker) -> None:
    fill(tmp_path / "spool", [("plant/n/m/x", b"%d" % i) for i in range(7)])
    connection = broker.connection("server")
    with MQTT(str(tmp_path / "spool"), broker.connection("server.recorder"), commit_interval=0.05) as recording:
        began = time.monotonic()
        # Slow enough that the first come back before the last are sent.
        assert republish(tmp_path / "spool", connection, threading.Event(), speed=10.0) == 7
        assert time.monotonic() - began >= 0.6
        until(lambda: recording.status().committed == 7)
    assert [payload for _, payload in rows(tmp_path / "spool")] == [b"%d" % i for i in [*range(7), *range(7)]]


def test_a_replay_that_is_stopped_ends_at_once_and_counts_what_the_broker_has(
    tmp_path: Path, broker: Broker
) -> None:
    fill(tmp_path / "spool", [("plant/n/m/x", b"1")] * 5, gap=3600 * SECOND)
    stop = threading.Event()
    # Else the next message would follow after an hour.
    connection = broker.connection("server")
    assert republish(tmp_path / "spool", connection, stop, on_progress=lambda _: stop.set()) == 1


@pytest.mark.parametrize(("speed", "match"), [(0.0, "expected above 0"), (math.nan, "expected above 0")])
def test_republishing_that_cannot_be(tmp_path: Path, speed: float, match: str) -> None:
    fill(tmp_path / "spool", [("a", b"1")])
    with pytest.raises(UserError, match=match):
        republish(tmp_path / "spool", Connection(), threading.Event(), speed)


def test_republishing_what_is_no_spool(tmp_path: Path, start_broker: Callable[..., Broker]) -> None:
    with pytest.raises(UserError, match=r"no such folder"):
        republish(tmp_path / "nowhere", Connection(), threading.Event())
    with pytest.raises(UserError, match=r"no messages in it; expected the folder of a spool"):
        republish(tmp_path, Connection(), threading.Event())
    fill(tmp_path / "empty", [])
    assert republish(tmp_path / "empty", start_broker().connection("server"), threading.Event()) == 0
