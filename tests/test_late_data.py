"""Data that come late, again, renamed and corrected: from messages in a spool to what a fleet trains on."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fml_lightning import UserError
from fml_lightning.connectors.codecs import WaveformBlock, encode_waveform
from fml_lightning.connectors.decoding import history
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.datamodules import Episodes, SpoolFleet
from fml_lightning.datamodules.spool import stream as spool_stream
from fml_lightning.datamodules.spool.left_out import Reason
from fml_lightning.datamodules.tasks import prediction_task
from fml_lightning.errors import NotYetError
from fml_lightning.preprocessing import RawWindows, Windowing

BEGIN = 1_800_000_000_000_000  # µs since 1970
HOUR, DAY = 3_600_000_000, 86_400_000_000
RATE = 1000.0  # Hz: a sample is 1000 µs
SIZE = 40  # samples in a message
BETWEEN_SIDES = 9
"""Windows of 100 samples, one every 20, that begin less than a window's length after the last early one's end."""
TOPICS = Topics((Topic("plant/{site}/{machine}/{channel}", WaveformBlock()),), (LabelTopic(),))

folders = itertools.count()


def message(k: int, delay: int = 0, machine: str = "m", ahead: int = 0, **fields: Any) -> Message:
    """Samples 40 k to 40 k + 40 of a ramp, received `delay` µs late, from a clock that is so many µs `ahead`."""
    at = BEGIN + 1000 * SIZE * k
    payload = encode_waveform(np.arange(SIZE * k, SIZE * k + SIZE), RATE, time=at + ahead)
    return Message(f"plant/north/{machine}/vibration", payload, at + 1000 * SIZE + delay, **fields)


def event(k: int, label: str, said: int = 0, machine: str = "m") -> Message:
    """A label from sample 40 k on, said so many µs after it."""
    at = BEGIN + 1000 * SIZE * k
    payload = msgspec.json.encode({"time": datetime.fromtimestamp(at / 1e6, UTC), "label": label})
    return Message(f"plant/north/{machine}/events", payload, at + said)


def recorded(folder: Path, messages: Sequence[Message], **options: Any) -> SpoolFleet:
    """A fleet of one site, to which these messages came, in this order."""
    spool = folder / f"spool{next(folders)}"
    with Spool(spool) as writer:
        writer.append(messages)
    write_topics(spool, TOPICS)
    fleet = SpoolFleet(
        {"north": str(spool)},
        ["normal", "outer"],
        windowing=Windowing(length=100, hop=20),
        features=RawWindows(),
        episodes=Episodes(shots=1, queries=1, tasks=1),
        **options,
    )
    fleet.setup("fit")
    return fleet


def windows(fleet: SpoolFleet) -> list[tuple[str, bool, int, int, float]]:
    """Machine, whether early, label, start and first sample of each window that a fleet trains on or judges by."""
    return [
        (machine.name, side is machine.early, int(label), int(start), float(x[0]))
        for machine in fleet.streams["north"].machines()
        for side in (machine.early, machine.late)
        for label, start, x in zip(side.label, side.start, side.x, strict=True)
    ]


def left_out(fleet: SpoolFleet) -> dict[Reason, int]:
    return dict(fleet.streams["north"].left_out())


@settings(max_examples=25, deadline=None)
@given(
    delays=st.lists(st.one_of(st.just(0), st.integers(0, 7 * DAY - 10_000_000)), min_size=10, max_size=120),
    repeated=st.lists(st.integers(0, 9), max_size=5),
    lost=st.sets(st.integers(0, 119), max_size=4),
)
def test_a_stream_is_trained_on_as_if_it_had_come_in_order(
    delays: list[int], repeated: list[int], lost: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each message up to a week late, whatever that makes of their order, some of them again at the end."""
    folder = tmp_path_factory.getbasetemp()
    labels = [event(0, "normal"), event(len(delays) // 2, "outer")]
    kept = {k: delay for k, delay in enumerate(delays) if k not in lost}
    punctual = [message(k) for k in kept]
    late = sorted((message(k, delay) for k, delay in kept.items()), key=lambda m: m.received)
    again = [message(k, 7 * DAY - 1_000_000) for k in repeated if k in kept]
    in_order, out_of_order = (recorded(folder, labels + come) for come in (punctual, late + again))
    assert windows(out_of_order) == windows(in_order)
    assert left_out(out_of_order) == left_out(in_order)


def test_a_backlog_of_days_that_comes_among_live_data_is_trained_on(tmp_path: Path) -> None:
    stored = [message(k, delay=3 * DAY) for k in range(100)]
    live = [message(k + 6_480_000) for k in range(100)]  # 40 ms each: three days later
    mixed = sorted(stored + live, key=lambda m: m.received)
    assert mixed[:4] != stored[:4]
    fleet = recorded(tmp_path, [event(0, "normal"), *mixed])
    starts = sorted(start for *_, start, _ in windows(fleet))
    first = BEGIN + 20_000 * np.arange(196)  # (4000 - 100) / 20 + 1 windows of either
    assert starts == [*first, *(first + 3 * DAY)]
    assert left_out(fleet) == {}


@pytest.mark.parametrize("hours", [20, 30])
def test_a_stamp_ahead_discards_no_other_block(hours: int, tmp_path: Path) -> None:
    blocks = [message(k, ahead=hours * HOUR if k == 5 else 0) for k in range(60)]
    fleet = recorded(tmp_path, [event(0, "normal"), *blocks])
    starts = {start for *_, start, _ in windows(fleet)}
    expected = {BEGIN + 1000 * (begin + 20 * k) for begin, n in ((0, 6), (240, 104)) for k in range(n)}
    assert len(expected - starts) == BETWEEN_SIDES
    assert starts <= expected
    reason = Reason.WAITING if hours == 20 else Reason.IMPLAUSIBLE_TIME  # over a day
    assert left_out(fleet) == {reason: 1}


def test_what_is_left_out_is_counted_by_reason_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REMEMBERED", 10)
    good = [message(k) for k in range(30)]
    bad = [
        message(40, retained=True),
        message(50, delay=31 * DAY),
        message(60, delay=DAY + HOUR),
        message(61, delay=DAY - HOUR),
        message(3),
        Message("plant/north/m/vibration", encode_waveform([np.nan] * 100, RATE, time=BEGIN + DAY), BEGIN + DAY),
    ]
    caplog.set_level(logging.INFO)
    labels = [event(0, "repair"), event(10, "normal"), event(20, "outer"), event(20, "normal")]
    fleet = recorded(tmp_path, [*labels, *good, *bad], max_lateness=86_400)
    # 56 windows begin at samples 0, 20, ... 1100: those up to 300 lie before the label at 400, four across it.
    assert left_out(fleet) == {
        Reason.RETAINED: 1,
        Reason.IMPLAUSIBLE_TIME: 1,
        Reason.TOO_LATE: 1,
        Reason.WAITING: 1,
        Reason.OVERLAPPING: 1,
        Reason.NOT_FINITE: 1,
        Reason.UNKNOWN_LABEL: 16,
        Reason.LABEL_CHANGES: 4,
    }
    told = [record.message for record in caplog.records if record.message.startswith("north: 1 machine")]
    assert told == [
        "north: 1 machine, 27 windows with a label; left out: 1 reading retained by the broker, which may be old,"
        " 1 reading of an implausible time, 1 reading too late (max_lateness),"
        " 1 reading repeated, or of a time that other readings cover,"
        " 1 reading waiting for the rest of a window, 1 window not finite,"
        " 16 windows under a label that is no class, 4 windows in which the label changes;"
        " 1 label corrected later"
    ]
    fleet.setup("test")
    assert sum(record.message in told for record in caplog.records) == 1
    with pytest.raises(NotYetError, match=r"and 0 without a label; left out: 1 reading retained.*4 windows in wh"):
        fleet.sites["north"].training_machines()


def test_whose_readings_are_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    came = [message(k) for k in range(20)] + [message(k, 31 * DAY, machine="fan") for k in range(3)]
    recorded(tmp_path, [event(0, "normal"), *came, message(25, 31 * DAY)], unseen=["no"])
    (told,) = (record for record in caplog.records if record.message.startswith("north: "))
    assert told.levelno == logging.WARNING
    assert told.message == (
        "north: 2 machines, 27 windows with a label; left out: 4 readings of an implausible time (fan and 1 more)"
    )


def test_a_healthy_recording_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Windows without a label, old ones, a change of label, a retained reading, and a last one that waits."""
    caplog.set_level(logging.INFO)
    blocks = [message(k) for k in range(90)] + [message(100)]
    labels = [event(10, "normal"), event(40, "outer"), message(0, retained=True)]
    fleet = recorded(tmp_path, [*labels, *blocks], max_windows=20)
    expected = {Reason.RETAINED, Reason.NO_LABEL, Reason.LABEL_CHANGES, Reason.OLD, Reason.WAITING}
    assert left_out(fleet).keys() == expected
    (told,) = (record for record in caplog.records if record.message.startswith("north: 1 machine"))
    assert told.levelno == logging.INFO


def test_a_clock_that_is_set_back_costs_no_reading(tmp_path: Path) -> None:
    """At the end of summer time, an hour; both times 100 messages, and some of the first again at last."""
    before = [message(k) for k in range(100)]
    shift = 50  # messages
    after = [message(k, ahead=-40_000 * shift) for k in range(100, 200)]
    fleet = recorded(tmp_path, [event(0, "normal"), *before, *after, *before[:20]])
    found = {(start, x) for *_, start, x in windows(fleet)}
    expected = {(BEGIN + 20_000 * k, 20.0 * k) for k in range(196)}
    expected |= {(BEGIN + 20_000 * k, 20.0 * k + 40 * shift) for k in range(100, 296)}
    assert found <= expected
    assert len(expected - found) <= 2 * BETWEEN_SIDES
    assert left_out(fleet) == {}


def test_late_readings_within_the_lateness_alone_are_trained_on(tmp_path: Path) -> None:
    blocks = [event(0, "normal"), *(message(k, delay=2 * HOUR) for k in range(20))]
    assert left_out(recorded(tmp_path, blocks, max_lateness=3600)) == {Reason.TOO_LATE: 20}
    assert left_out(recorded(tmp_path, blocks, max_lateness=7201)) == {}
    assert left_out(recorded(tmp_path, blocks, max_lateness=float("inf"))) == {}
    with pytest.raises(
        NotYetError, match=r"^north: of north: vibration, all that has come in .* left out: 20 readings too l"
    ):
        recorded(tmp_path, blocks, max_lateness=3600).sites["north"].training_machines()
    with pytest.raises(UserError, match=r"max_lateness >= 0, got .* and -1"):
        recorded(tmp_path, blocks, max_lateness=-1)


def test_blocks_with_gaps_tell_why_they_give_no_window(tmp_path: Path) -> None:
    blocks = [message(2 * k) for k in range(20)]
    with pytest.raises(
        NotYetError,
        match=r"left out: 20 readings waiting for the rest of a window; m has 19 gaps between blocks: the next"
        r" block begins 40 ms \(median\) from when it was due",
    ):
        recorded(tmp_path, blocks).sites["north"].training_machines()


def test_windows_beyond_the_newest_are_counted_however_often_they_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_stream, "STEP", 10)
    blocks = [event(0, "normal"), *(message(k) for k in range(100))]
    fleet = recorded(tmp_path, blocks, max_windows=50)
    assert left_out(fleet) == {Reason.OLD: 196 - 50}


# Labels -------------------------------------------------------------------------------------------------


def labels_of(fleet: SpoolFleet) -> set[int]:
    return {label for _, _, label, _, _ in windows(fleet)}


def test_the_label_that_was_said_later_holds_whoever_says_it(tmp_path: Path) -> None:
    blocks = [message(k) for k in range(20)]
    at = datetime.fromtimestamp(BEGIN / 1e6, UTC)
    csv = tmp_path / "labels.csv"
    labels = {"north": str(csv)}

    csv.write_text(f"time,machine,label\n{at.isoformat()},m,outer\n")
    os.utime(csv, (BEGIN / 1e6 + 60,) * 2)
    said_before = recorded(tmp_path, [event(0, "normal", said=50_000_000), *blocks], labels=labels)
    assert labels_of(said_before) == {1}
    assert said_before.streams["north"].labels.corrected == 1
    said_after = recorded(tmp_path, [event(0, "normal", said=70_000_000), *blocks], labels=labels)
    assert labels_of(said_after) == {0}

    received = datetime.fromtimestamp(BEGIN / 1e6 + 80, UTC).isoformat()
    csv.write_text(f"time,machine,label,received\n{at.isoformat()},m,outer,{received}\n")
    os.utime(csv, (BEGIN / 1e6 + 60,) * 2)
    assert labels_of(recorded(tmp_path, [event(0, "normal", said=70_000_000), *blocks], labels=labels)) == {1}
    csv.write_text(f"time,machine,label,received\n{at.isoformat()},m,outer,\n")
    os.utime(csv, (BEGIN / 1e6 + 60,) * 2)
    assert labels_of(recorded(tmp_path, [event(0, "normal", said=70_000_000), *blocks], labels=labels)) == {0}
    csv.write_text(f"time,machine,label,received\n{at.isoformat()},m,outer,tomorrow\n")
    with pytest.raises(UserError, match=r"column received, row 1: expected an ISO time .*'tomorrow'"):
        recorded(tmp_path, blocks, labels=labels)


def test_corrections_count_in_whatever_order_they_come(tmp_path: Path) -> None:
    blocks = [message(k) for k in range(20)]
    said = [event(0, label, said=second * 1_000_000) for second, label in enumerate(["normal", "outer", "normal"])]
    for events in itertools.permutations(said):
        fleet = recorded(tmp_path, [*events, *blocks])
        assert labels_of(fleet) == {0}
        assert fleet.streams["north"].labels.corrected == 1  # "outer"


# Aliases ------------------------------------------------------------------------------------------------


def test_a_renamed_machine_has_one_history(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    csv = tmp_path / "labels.csv"
    at = datetime.fromtimestamp((BEGIN + 1000 * SIZE * 30) / 1e6, UTC)
    csv.write_text(f"time,machine,label\n{at.isoformat()},older,outer\n")
    came = [
        event(0, "normal", machine="old"),
        *(message(k, machine="older") for k in range(10)),
        *(message(k, machine="old") for k in range(10, 20)),
        *(message(k, machine="new") for k in range(20, 40)),
    ]
    fleet = recorded(
        tmp_path, came, aliases={"north/older": "old", "old": "new"}, labels={"north": str(csv)}, unseen=["no"]
    )
    assert fleet.sites["north"].machine_names == ["new"]
    assert {(name, label) for name, _, label, _, _ in windows(fleet)} == {("new", 0), ("new", 1)}
    assert left_out(fleet) == {Reason.LABEL_CHANGES: 4}
    assert not [record for record in caplog.records if "aliases" in record.message]
    with pytest.raises(UserError, match=r"old is called new at north \(aliases\); ask for new"):
        fleet.site_of("old")
    assert fleet.site_of("new") is fleet.sites["north"]


def test_an_alias_of_no_machine_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fleet = recorded(tmp_path, [message(k) for k in range(5)], aliases={"pmup": "m"})
    fleet.setup("test")
    told = [record.message for record in caplog.records if "aliases" in record.message]
    assert told == ["SpoolFleet: aliases rename pmup, which no machine was called so far; there are m"]


def test_windows_in_which_a_label_ends_are_predicted_too(tmp_path: Path) -> None:
    """One every 20 samples: 28 normal ones are early (to sample 540), and late are those from sample 740 on.

    Sample 1200 is the first under no class: it is in windows from 1120 on, and windows from 1200 on have no other.
    """
    came = [event(0, "normal"), *map(message, range(30)), event(30, "repair"), *map(message, range(30, 60))]
    (machine,) = recorded(tmp_path, came).streams["north"].machines()
    task = prediction_task(machine, Episodes(shots=1, of="as they come"), np.random.default_rng(0))
    assert task.query.start.tolist() == [BEGIN + 1000 * sample for sample in range(740, 2320, 20)]
    assert (task.query.label >= 0).tolist() == [sample < 1120 for sample in range(740, 2320, 20)]


def test_machines_that_send_at_once_under_one_alias_are_never_mixed_in_a_window(tmp_path: Path) -> None:
    """Both have the same stamps: whichever covers a time first counts."""
    other = [
        Message(
            "plant/north/b/vibration",
            encode_waveform(-1 - np.arange(SIZE), RATE, time=BEGIN + 40_000 * k),
            BEGIN + 40_000 * k + 41_000,
        )
        for k in range(20)
    ]
    came = [m for pair in zip((message(k, machine="a") for k in range(20)), other, strict=True) for m in pair]
    fleet = recorded(tmp_path, [event(0, "normal", machine="a"), *came], aliases={"a": "m", "b": "m"})
    (machine,) = fleet.streams["north"].machines()
    assert machine.name == "m"
    for x in (*machine.early.x, *machine.late.x):
        assert len(set(np.sign(x[1:]).tolist())) == 1
    assert left_out(fleet) == {Reason.OVERLAPPING: 20}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"aliases": {"a": "b", "b": "c", "c": "a"}}, "a -> b -> c -> a is a circle"),
        ({"aliases": {"a": "a"}}, "a -> a is a circle"),
        ({"aliases": {"north/a": "south/b"}}, None),
        ({"aliases": {"a": "north/b"}}, "leads to the site north; expected a name within its own site"),
        ({"aliases": {"a": ""}}, "expected new names of machines by old ones, got 'a': ''"),
        ({"aliases": ["a"]}, "expected aliases as a mapping from old names to new ones"),
        ({"aliases": {"a": "b"}, "unseen": ["a"]}, "unseen holds 'a' out, which aliases call 'b'; hold 'b' out"),
    ],
)
def test_impossible_aliases_are_refused(options: dict[str, Any], complaint: str | None) -> None:
    if complaint is None:  # there is no site south: a machine may be called so
        assert SpoolFleet({"north": "x"}, ["a"], **options).streams["north"].aliases == {"a": "south/b"}
        return
    with pytest.raises(UserError, match=complaint):
        SpoolFleet({"north": "x"}, ["a"], **options)
