"""Recordings in files: what is found, what is said of it, how it is read, and what is refused in which words."""

from __future__ import annotations

import pickle
import random
import re
import struct
import subprocess
import sys
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.io
import yaml
from numpy.typing import NDArray

from fml_lightning.commands.learning import run
from fml_lightning.datamodules import CsvFormat, Episodes, Files, Ramp, Recording
from fml_lightning.datamodules.files.listed_file import parse_time
from fml_lightning.datamodules.files.pattern import find_files
from fml_lightning.datamodules.files.time_column import find_stretches
from fml_lightning.errors import UserError
from fml_lightning.preprocessing import LogBandPowers, RawWindows, Windowing

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=(601, 3)).astype(np.float32)
SHORT = Windowing(32, 32)
FEW = LogBandPowers(bands=16)


def text(values: NDArray[Any], header: str = "", separator: str = ",", comma: bool = False) -> str:
    lines = [separator.join(f"{value:.6f}" for value in row) for row in values]
    lines = [line.replace(".", ",") for line in lines] if comma else lines
    return "\n".join([header, *lines] if header else lines) + "\n"


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def labelled(root: Path, content: str | bytes, ending: str = "csv") -> str:
    """One file of each of two classes at two sites, and the pattern that finds them."""
    for site in ("plant1", "plant2"):
        for label in ("ball", "normal"):
            written(root / site / "m1" / f"{label}_1.{ending}", content)
    return str(root / "{site}" / "{machine}" / f"{{label}}_*.{ending}")


def recordings(files: Files, site: str = "plant1") -> list[Recording]:
    return list(files.site(site).recordings)


# --- what a pattern finds


def test_a_pattern_says_site_machine_and_label(tmp_path: Path) -> None:
    files = Files(
        labelled(tmp_path, text(SIGNAL, "x,y,z")), channels=["z", "x"], sample_rate=100.0, unseen=["plant2"]
    )
    files.setup("fit")
    assert (list(files.sites), list(files.unseen), files.classes) == (["plant1"], ["plant2"], ("ball", "normal"))
    ball, normal = recordings(files)
    assert (ball.machine, ball.target, normal.target, ball.sample_rate) == ("m1", 0, 1, 100.0)
    np.testing.assert_allclose(ball.load(), SIGNAL[:, [2, 0]].T, atol=1e-6)
    assert files.preprocessing.channels == ("z", "x")


def test_files_come_in_natural_order_whatever_the_order_on_disk(tmp_path: Path) -> None:
    names = [f"{i}.csv" for i in range(1, 13)]
    random.Random(0).shuffle(names)
    for name in names:
        written(tmp_path / "a" / "m" / name, name)
    found = find_files(str(tmp_path / "{site}/{machine}/*.csv"))
    assert [file.path.stem for file in found] == [str(i) for i in range(1, 13)]


def test_wildcards_are_those_of_shells(tmp_path: Path) -> None:
    for name in ("a/x1.csv", "a/x2.csv", "a/y1.csv", "a/x1.txt", "a/deep/er/x1.csv", "a/.x1.csv", "b[1]/x1.csv"):
        written(tmp_path / name, "")

    def found(pattern: str) -> list[str]:
        return [str(file.path.relative_to(tmp_path)) for file in find_files(str(tmp_path / pattern))]

    assert found("{site}/x?.csv") == ["a/x1.csv", "a/x2.csv", "b[1]/x1.csv"]
    assert found("{site}/[!x]*.csv") == ["a/y1.csv"]
    assert found("{site}/**/x[12].csv") == ["a/deep/er/x1.csv", "a/x1.csv", "a/x2.csv", "b[1]/x1.csv"]
    assert found("a/{label}.csv") == ["a/x1.csv", "a/x2.csv", "a/y1.csv"]


def test_the_same_place_twice_is_the_same_text_twice(tmp_path: Path) -> None:
    written(tmp_path / "p1" / "p1_m1.csv", "")
    written(tmp_path / "p1" / "p2_m1.csv", "")
    (file,) = find_files(str(tmp_path / "{site}/{site}_{machine}.csv"))
    assert dict(file.said) == {"site": "p1", "machine": "m1"}


def test_a_name_that_can_be_read_in_two_ways_is_refused_unless_classes_decide(tmp_path: Path) -> None:
    written(tmp_path / "p" / "inner_race_1.csv", "")
    pattern = str(tmp_path / "{site}/{label}_*.csv")
    with pytest.raises(UserError, match=r"got 'inner' or 'inner_race'; write a wildcard that fits once"):
        find_files(pattern)
    (file,) = find_files(pattern, ["inner_race", "ball"])
    assert file.said["label"] == "inner_race"
    (file,) = find_files(str(tmp_path / "{site}/{label}_[0-9]*.csv"))
    assert file.said["label"] == "inner_race"


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "p\udce9"  # the byte of an old encoding's é
    folder.mkdir()
    (folder / "normal.csv").write_text("x\n1\n")
    with pytest.raises(UserError, match=r"expected names in UTF-8, got .*p\\udce9/normal\.csv; rename it"):
        find_files(f"{tmp_path}/{{machine}}/{{label}}.csv")


def test_a_pattern_that_finds_nothing_says_what_there_is(tmp_path: Path) -> None:
    written(tmp_path / "data" / "plant1" / "x.csv", "")
    with pytest.raises(UserError, match=r"expected files like .*, got none; the folder '.*data' holds plant1"):
        find_files(str(tmp_path / "data/{site}/{label}_*.csv"))
    with pytest.raises(UserError, match=r"expected places such as \{site\}"):
        find_files("{site/x.csv")
    with pytest.raises(UserError, match=r"expected the place \{site\} in the pattern"):
        Files(str(tmp_path / "data/*/{label}.csv"), sample_rate=1.0, classes=["x"]).setup("fit")


# --- sites that are held out


def test_machines_held_out_of_a_site_that_trains_are_its_unseen_site(tmp_path: Path) -> None:
    for site in ("plant1", "plant2", "plant3"):
        for machine in ("m1", "m2"):
            for label in ("a", "b"):
                written(tmp_path / site / machine / f"{label}.csv", text(SIGNAL[:, :1]))

    def sites(*unseen: str) -> tuple[list[str], list[str]]:
        files = Files(str(tmp_path / "{site}/{machine}/{label}.csv"), sample_rate=10.0, unseen=unseen)
        files.setup("fit")
        return list(files.sites), list(files.unseen)

    assert sites("plant3") == (["plant1", "plant2"], ["plant3"])
    assert sites("plant1/m2", "plant3") == (["plant1", "plant2"], ["plant1-unseen", "plant3"])
    assert sites("m1") == (["plant1", "plant2", "plant3"], ["plant1-unseen", "plant2-unseen", "plant3-unseen"])
    assert sites("plant[12]/*") == (["plant3"], ["plant1", "plant2"])
    assert sites() == (["plant1", "plant2", "plant3"], [])
    with pytest.raises(UserError, match=r"unseen names 'plant9', which is no site, .*; did you mean 'plant3'"):
        sites("plant9")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("1\r2\r3\r", "line 1: expected lines that end on a line feed, got carriage returns alone"),
        ('1\n2\n"3\n4\n5\n', "line 3, column 0: expected a number, got '3.n4.n5'; mend it$"),
        ("1\n2\ninf\n3\n", "line 3, column 0: expected a finite number, got inf; mend it$"),
    ],
)
def test_lines_that_hold_no_samples_are_told_with_their_number(
    tmp_path: Path, content: str, complaint: str
) -> None:
    files = Files(labelled(tmp_path, content), sample_rate=10.0, windowing=Windowing(1, 1), features=RawWindows())
    with pytest.raises(UserError, match=f"ball_1.csv, {complaint}"):
        _ = [recording.load() for recording in recordings(files)]


def test_a_share_of_the_sites_is_held_out(tmp_path: Path) -> None:
    for site in ("plant1", "plant2", "plant3", "plant4"):
        for label in ("a", "b"):
            written(tmp_path / site / f"{label}.csv", text(SIGNAL[:, :1]))
    pattern = str(tmp_path / "{site}/{label}.csv")
    drawn = set()
    for seed in range(6):
        files = Files(pattern, sample_rate=10.0, unseen=0.5, seed=seed)
        files.setup("fit")
        assert (len(files.sites), len(files.unseen)) == (2, 2)
        drawn.add(tuple(files.unseen))
    assert len(drawn) > 1


def test_files_that_were_refused_are_refused_again_until_they_are_mended(tmp_path: Path) -> None:
    """The rates of two sites differ: each is fine alone, and only together they are refused."""
    for site, seconds in (("plant1", 0.1), ("plant2", 0.2)):
        for label in ("a", "b"):
            rows = np.c_[np.arange(601) * seconds, SIGNAL[:, 0]]
            written(tmp_path / site / f"{label}.csv", text(rows, "t,x"))
    files = Files(str(tmp_path / "{site}/{label}.csv"), time="t", windowing=SHORT, features=FEW)
    for _ in range(2):
        with pytest.raises(UserError, match=r"expected 10 Hz as of .*plant1.*, got 5 Hz"):
            files.setup("fit")
        assert (files.sites, files.unseen) == ({}, {})
    for label in ("a", "b"):
        written(tmp_path / "plant2" / f"{label}.csv", (tmp_path / "plant1" / f"{label}.csv").read_text())
    files.setup("fit")
    assert list(files.sites) == ["plant1", "plant2"]


def test_a_site_opens_only_its_own_files(tmp_path: Path) -> None:
    pattern = labelled(tmp_path, text(SIGNAL[:, :1]))
    written(tmp_path / "plant2" / "m1" / "ball_1.csv", b"\0\1\2")
    files = Files(pattern, sample_rate=10.0)
    assert len(recordings(files, "plant1")) == 2
    with pytest.raises(UserError, match=r"plant2/m1/ball_1.csv: expected text in UTF-8"):
        files.site("plant2")


# --- kinds of files


def as_csv(path: Path) -> None:
    path.write_text(text(SIGNAL, "x,y,z"))


def as_parquet(path: Path) -> None:
    pl.DataFrame(SIGNAL, schema=["x", "y", "z"]).with_columns(state=pl.lit("on")).write_parquet(path)


def as_records(path: Path) -> None:
    records = np.empty(len(SIGNAL), [(name, "f4") for name in "xyz"])
    for i, name in enumerate("xyz"):
        records[name] = SIGNAL[:, i]
    np.save(path, records)


def as_mat(path: Path) -> None:
    scipy.io.savemat(path, {name: SIGNAL[:, i : i + 1] for i, name in enumerate("xyz")}, do_compression=True)


@pytest.mark.parametrize(
    ("ending", "write"),
    [("csv", as_csv), ("TXT", as_csv), ("parquet", as_parquet), ("npy", as_records), ("mat", as_mat)],
)
def test_channels_by_name(tmp_path: Path, ending: str, write: Callable[[Path], None]) -> None:
    pattern = labelled(tmp_path, "", ending)
    for path in tmp_path.rglob(f"*.{ending}"):
        write(path)
    recording = recordings(Files(pattern, channels=["z", "x"], sample_rate=100.0))[0]
    assert recording.shape == (2, 601)
    np.testing.assert_allclose(recording.load(), SIGNAL[:, [2, 0]].T, atol=1e-6)
    with pytest.raises(UserError, match=r"ball_1.*: expected one column called 'w', got none; it has x, y, z"):
        recordings(Files(pattern, channels=["w"], sample_rate=100.0))
    with pytest.raises(UserError, match=r"expected column 7, counted from 0, got [34] columns: x, y, z"):
        recordings(Files(pattern, channels=[7], sample_rate=100.0))


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_arrays_have_channels_by_number(tmp_path: Path, order: Any) -> None:
    pattern = labelled(tmp_path, "", "npy")
    for path in tmp_path.rglob("*.npy"):
        np.save(path, np.asarray(SIGNAL, order=order))
    np.testing.assert_array_equal(
        recordings(Files(pattern, channels=[2, 0], sample_rate=100.0))[0].load(), SIGNAL[:, [2, 0]].T
    )
    with pytest.raises(UserError, match="expected one column of samples, got 0, 1, 2; name the channels"):
        recordings(Files(pattern, sample_rate=100.0))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (np.array(["a"]), "expected numbers of shape"),
        (np.zeros((2, 3, 4)), r"got float64 of shape \(2, 3, 4\)"),
        (np.zeros((3, 25600)), "expected samples as rows, .* got shape .*; save the transposed array"),
        (np.array([None]), "that cannot be read"),
        (np.zeros((0, 3)), "expected at least one sample, got none"),
    ],
)
def test_numpy_arrays_that_are_no_samples(tmp_path: Path, content: NDArray[Any], complaint: str) -> None:
    pattern = labelled(tmp_path, "", "npy")
    for path in tmp_path.rglob("*.npy"):
        np.save(path, content)
    with pytest.raises(UserError, match=rf"ball_1\.npy: .*{complaint}"):
        recordings(Files(pattern, channels=[0], sample_rate=100.0))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_gives_codes_and_its_own_rate(tmp_path: Path, width: int) -> None:
    pattern = labelled(tmp_path, "", "wav")
    codes = RNG.integers(-(1 << 8 * width - 1), 1 << 8 * width - 1, (501, 2))
    stored = (codes + 128).astype("u1").tobytes() if width == 1 else codes.astype("<i4").tobytes()
    if width in (2, 3):
        stored = b"".join(int(code).to_bytes(width, "little", signed=True) for code in codes.ravel())
    for path in tmp_path.rglob("*.wav"):
        with wave.open(str(path), "wb") as file:
            file.setparams((2, width, 8000, 0, "NONE", ""))
            file.writeframes(stored)
    recording = recordings(Files(pattern, channels=[1]))[0]
    assert (recording.sample_rate, recording.shape) == (8000.0, (1, 501))
    np.testing.assert_array_equal(recording.load()[0], codes[:, 1].astype(np.float32))
    np.testing.assert_array_equal(
        recordings(Files(pattern, channels=[1], scale=0.5))[0].load()[0], (codes[:, 1] * 0.5).astype(np.float32)
    )
    with pytest.raises(UserError, match=r"ball_1\.wav .*expected 100 Hz, got 8000 Hz; set resample: true"):
        recordings(Files(pattern, channels=[1], sample_rate=100.0))
    files = Files(pattern, channels=[1], sample_rate=4000.0, resample=True, windowing=SHORT, features=FEW)
    assert len(files.site("plant1").machines[0].late) == 2 * 2  # (251 - 125 - 32) // 32 windows of each class


def test_wav_of_floats(tmp_path: Path) -> None:
    pattern = labelled(tmp_path, "", "wav")
    for path in tmp_path.rglob("*.wav"):
        scipy.io.wavfile.write(path, 16000, SIGNAL)
    np.testing.assert_array_equal(recordings(Files(pattern, channels=[2]))[0].load()[0], SIGNAL[:, 2])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "whose header ends too early"),
        (b"RIFF\0\0\0\0AVI LIST", "that does not begin as such"),
        (b"RIFF\0\0\0\0WAVE", "with samples, got none"),
        (
            b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 2, 1, 8000, 8000, 1, 4) + b"data\4\0\0\0abcd",
            "got format 2 with 4 bits",
        ),
        (b"RIFF\0\0\0\0WAVEfmt \2\0\0\0\1\0data\4\0\0\0abcd", "whose header ends too early"),
    ],
)
def test_wav_files_that_are_none(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"ball_1\.wav: .*{complaint}"):
        recordings(Files(labelled(tmp_path, content, "wav")))


def test_mat_files_take_patterns_of_names_and_refuse_what_is_no_vector(tmp_path: Path) -> None:
    pattern = labelled(tmp_path, "", "mat")
    for path in tmp_path.rglob("*.mat"):
        scipy.io.savemat(path, {"X097_DE_time": SIGNAL[:, :1], "X097RPM": 1797, "matrix": SIGNAL})
    np.testing.assert_array_equal(
        recordings(Files(pattern, channels=["X*_DE_time"], sample_rate=1.0))[0].load()[0], SIGNAL[:, 0]
    )
    with pytest.raises(
        UserError, match=r"variable 'matrix': expected a variable that is a vector, got shape \(601, 3\)"
    ):
        recordings(Files(pattern, channels=["matrix"], sample_rate=1.0))
    with pytest.raises(
        UserError, match="expected channels with equally many samples, got X097_DE_time 601, X097RPM 1"
    ):
        recordings(Files(pattern, channels=["X097_DE_time", "X097RPM"], sample_rate=1.0))
    with pytest.raises(UserError, match=r"expected one column called 'X\*', got 2 of them"):
        recordings(Files(pattern, channels=["X*"], sample_rate=1.0))


@pytest.mark.parametrize("ending", ["parquet", "npy", "mat"])
def test_a_file_of_another_kind_is_told(tmp_path: Path, ending: str) -> None:
    with pytest.raises(UserError, match=rf"ball_1\.{ending}: expected a .*cannot be read"):
        recordings(Files(labelled(tmp_path, "acc_x\n1\n", ending), channels=["acc_x"], sample_rate=1.0))


def test_an_ending_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ball_1\.xlsx: expected a file that ends on \.csv, .*, got \.xlsx"):
        recordings(Files(labelled(tmp_path, "", "xlsx"), sample_rate=1.0))


# --- text


@pytest.mark.parametrize("header", ["x{0}y{0}z", ""])
@pytest.mark.parametrize(
    ("separator", "comma"), [(",", False), (";", False), ("\t", False), (";", True), ("\t", True)]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n\n", ""])
def test_layouts_of_text_are_seen(tmp_path: Path, separator: str, comma: bool, header: str, end: str) -> None:
    content = text(SIGNAL, header.format(separator), separator, comma)[:-1]
    content = content.replace("\n", "\r\n") if end == "\r\n" else content
    pattern = labelled(tmp_path, b"\xef\xbb\xbf" + (content + end).encode())
    recording = recordings(Files(pattern, channels=[0, 2], sample_rate=100.0))[0]
    np.testing.assert_allclose(recording.load(), SIGNAL[:, [0, 2]].T, atol=1e-6)


def test_one_column_with_decimal_commas(tmp_path: Path) -> None:
    recording = recordings(Files(labelled(tmp_path, "acc\n1,5\n2,25\n"), sample_rate=1.0))[0]
    np.testing.assert_array_equal(recording.load(), [[1.5, 2.25]])


def test_what_the_first_lines_do_not_show_is_told(tmp_path: Path) -> None:
    content = "made by a logger; 1\n\n1|2\ng|g\n1,5|7\n2|8\n"
    layout = CsvFormat(separator="|", decimal_comma=True, header=True, skip=1, skip_after_header=1)
    recording = recordings(Files(labelled(tmp_path, content), channels=["1"], sample_rate=1.0, csv=layout))[0]
    np.testing.assert_array_equal(recording.load(), [[1.5, 2.0]])


def test_names_of_columns_in_latin_1(tmp_path: Path) -> None:
    content = "Zeit;Beschl. [m/s²]\n0;1,5\n1;2,5\n".encode("latin-1")
    recording = recordings(Files(labelled(tmp_path, content), channels=["Beschl. [m/s²]"], sample_rate=1.0))[0]
    np.testing.assert_array_equal(recording.load(), [[1.5, 2.5]])


LINES = "x,y\n1,2\n2,3\n"


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        ("", {}, "expected lines of samples, got an empty file"),
        ("\n\n", {}, "expected lines of samples, got an empty file"),
        ("x,y\n", {}, "expected at least one sample, got none"),
        (LINES, {"channels": ["z"]}, "expected one column called 'z', got none; it has x, y;"),
        ("1,2\n2,3\n", {"channels": ["x"]}, "got none; it has no names, but columns 0 to 1"),
        (LINES, {"channels": [2]}, "expected column 2, counted from 0, got 2 columns: x, y"),
        (LINES, {"channels": []}, "expected one column of samples, got x, y; name the channels"),
        (LINES + "3,on\n", {}, "line 4, column 'y': expected a number, got 'on'; mend it"),
        (LINES + "3,\n", {}, "line 4, column 'y': expected a finite number, got none; mend it, or set missing"),
        (LINES + "3\n4,5\n", {}, "line 4, column 'y': expected a finite number, got none"),
        (LINES + "3,nan\n", {}, "line 4, column 'y': expected a finite number, got none"),
        (LINES + "3,inf\n", {"missing": "interpolate"}, "line 4, column 'y': expected a finite number, got inf"),
        (LINES + "3,1e300\n", {}, r"line 4, column 'y': expected a finite number, got 1e\+300"),
        (LINES + "3,4,5\n", {}, "line 4: expected 2 columns parted by ',' as in the first line, got 3"),
        ("x;y\ns;g\n1;2\n", {}, "line 2, column 'y': expected a number, got 'g'; .*csv.skip_after_header"),
        (
            "x;y\n" + "1;1\n" * 200 + "1;1,5\n",
            {},
            "line 202, column 'y': expected a number, got '1,5'; set csv.dec",
        ),
        ("y,y\n1,2\n", {}, "expected one column called 'y', got 2 of them"),
        (b"PK\3\4\0\0", {}, r"expected text in UTF-8, got other bytes; is it a file of another kind\?"),
        (
            "x,y\n" + "1,7\n" * 40,
            {"windowing": SHORT},
            "line 2 to line 41, column 'y': expected samples that change",
        ),
        (
            "x,y\n" + "1,\n" * 40,
            {"missing": "interpolate"},
            "line 2, column 'y': .*got none; leave the column out",
        ),
        (LINES, {"sample_rate": None}, "expected the sample rate of its samples, got none; set sample_rate"),
        (LINES, {"csv": CsvFormat(header=False)}, "line 1, column 1: expected a number, got 'y'"),
    ],
)
def test_text_that_is_refused(
    tmp_path: Path, content: str | bytes, options: Mapping[str, Any], complaint: str
) -> None:
    channels = [1] if options.get("csv") else ["y"]
    files = Files(labelled(tmp_path, content), **{"channels": channels, "sample_rate": 10.0, **options})

    def load() -> None:
        for recording in recordings(files):
            recording.load()

    with pytest.raises(UserError, match=rf"ball_1\.csv[:,] .*{complaint}"):
        load()


def test_missing_samples_lie_on_a_line_if_told(tmp_path: Path) -> None:
    content = "x\n\n2\n\n\n5\nnan\n"
    files = Files(labelled(tmp_path, content), sample_rate=1.0, missing="interpolate")
    np.testing.assert_array_equal(recordings(files)[0].load(), [[2, 2, 3, 4, 5, 5]])


def test_constant_channels_are_kept_if_told_and_where_rows_are_few(tmp_path: Path) -> None:
    pattern = labelled(tmp_path, "x\n" + "7\n" * 40)
    assert (
        Files(pattern, sample_rate=1.0, constant="keep", windowing=SHORT).site("plant1").recordings[0].load().any()
    )
    few = Files(pattern, sample_rate=1.0, windowing=Windowing(64, 64)).site("plant1").recordings[0]
    np.testing.assert_array_equal(few.load(), np.full((1, 40), 7))


def test_a_parquet_column_of_text_is_refused(tmp_path: Path) -> None:
    pattern = labelled(tmp_path, "", "parquet")
    for path in tmp_path.rglob("*.parquet"):
        as_parquet(path)
    with pytest.raises(
        UserError, match=r"ball_1\.parquet, row 1, column 'state': expected numbers, got a column of Str"
    ):
        recordings(Files(pattern, channels=["state"], sample_rate=1.0))
    pl.DataFrame({"x": [1.0, None, 3.0]}).write_parquet(tmp_path / "plant1/m1/ball_1.parquet")
    with pytest.raises(UserError, match=r"ball_1\.parquet, row 2, column 'x': expected a finite number, got none"):
        recordings(Files(pattern, channels=["x"], sample_rate=1.0))[0].load()


# --- times


def test_the_rate_follows_from_a_column_of_times_and_gaps_part_a_file(tmp_path: Path) -> None:
    seconds = np.concatenate([np.arange(5), 100 + np.arange(4), [500]]) / 50
    content = text(np.stack([seconds, np.arange(10)], 1), "t,x")
    first, second, third = recordings(Files(labelled(tmp_path, content), time="t"))[:3]
    assert {first.sample_rate, second.sample_rate, third.sample_rate} == {50.0}
    np.testing.assert_array_equal(first.load(), [[0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(second.load(), [[5, 6, 7, 8]])
    np.testing.assert_array_equal(third.load(), [[9]])
    assert first.start is None


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S.%f+00:00", "s"]
)
def test_dates_and_times_tell_when_a_recording_began(tmp_path: Path, form: str) -> None:
    stamps = pl.datetime_range(
        pl.datetime(2024, 1, 31, 12, 30), pl.datetime(2024, 1, 31, 12, 31), "20ms", eager=True, time_unit="us"
    )
    column = (stamps.dt.epoch("us") / 1e6).cast(pl.String) if form == "s" else stamps.dt.strftime(form)
    rows = [f"{stamp},{i}" for i, stamp in enumerate(column)]
    recording = recordings(Files(labelled(tmp_path, "\n".join(["t,x", *rows])), time="t"))[0]
    assert recording.start == 1706704200_000000
    assert (recording.sample_rate, recording.shape) == (50.0, (1, 3001))


def test_points_in_time_of_parquet(tmp_path: Path) -> None:
    pattern = labelled(tmp_path, "", "parquet")
    for path in tmp_path.rglob("*.parquet"):
        stamps = pl.datetime_range(
            pl.datetime(2024, 1, 31, 13, 30), pl.datetime(2024, 1, 31, 13, 31), "10ms", eager=True, time_unit="ns"
        ).dt.replace_time_zone("Europe/Berlin")
        pl.DataFrame({"t": stamps, "x": np.arange(len(stamps))}).write_parquet(path)
    recording = recordings(Files(pattern, time="t"))[0]
    assert (recording.start, recording.sample_rate) == (1706704200_000000, 100.0)


@pytest.mark.parametrize(
    ("times", "complaint"),
    [
        ([0, 1, 1, 2], r"expected times that increase, got 1 s in line 4 after 1 s; sort the rows"),
        ([0, 1, 0.5, 2], "got 0.5 s in line 4 after 1 s"),
        ([0, 1, 2, 2.3, 3, 4], "expected steps of about 1 s, got 0.3 s up to line 5"),
        ([0, float("nan"), 2], "expected a time in each row, got none in line 3"),
        (np.cumsum([0.01] * 500 + [0.013] * 500), r"expected one sample rate, 86.* Hz, got 100 Hz from line 2"),
    ],
)
def test_times_that_are_refused(tmp_path: Path, times: list[float], complaint: str) -> None:
    content = text(np.stack([times, np.arange(len(times))], 1), "t,x")
    with pytest.raises(UserError, match=rf"ball_1\.csv, column 't': .*{complaint}"):
        recordings(Files(labelled(tmp_path, content), time="t"))


def test_times_that_are_none_are_told_with_their_line(tmp_path: Path) -> None:
    content = "t,x\n2024-01-31 12:00:00,1\nyesterday,2\n"
    with pytest.raises(
        UserError, match=r"line 3, column 't': expected a time, as seconds or like .*, got 'yesterday'"
    ):
        recordings(Files(labelled(tmp_path, content), time="t"))


def test_jitter_is_borne_and_a_single_row_tells_no_rate() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(20_001) / 1000 + rng.uniform(-2e-4, 2e-4, 20_001)
    steady = find_stretches(seconds, str, "t")
    assert len(steady.stretches) == 1
    assert steady.sample_rate == pytest.approx(1000, rel=1e-4)
    assert find_stretches(np.zeros(1), str, "t").sample_rate is None


def test_a_rate_by_the_column_must_be_the_expected_one(tmp_path: Path) -> None:
    pattern = labelled(tmp_path, text(np.stack([np.arange(100) / 50, np.arange(100)], 1), "t,x"))
    with pytest.raises(UserError, match=r"expected 100 Hz, got 50 Hz; set resample: true"):
        recordings(Files(pattern, time="t", sample_rate=100.0))
    assert recordings(Files(pattern, time="t", sample_rate=50.01))[0].sample_rate == 50.01


def test_mixed_rates_are_refused(tmp_path: Path) -> None:
    pattern = labelled(tmp_path, text(np.stack([np.arange(100) / 50, np.arange(100)], 1), "t,x"))
    other = text(np.stack([np.arange(100) / 40, np.arange(100)], 1), "t,x")
    written(tmp_path / "plant1/m1/normal_1.csv", other)
    with pytest.raises(
        UserError, match=r"normal_1.csv .*: expected 50 Hz as of .*ball_1.csv .*, got 40 Hz; set sample"
    ):
        recordings(Files(pattern, time="t"))
    written(tmp_path / "plant1/m1/ball_1.csv", other)
    Files(pattern, time="t").site("plant1")
    with pytest.raises(UserError, match=r"plant2.* expected 40 Hz as of .*, got 50 Hz"):
        Files(pattern, time="t").setup("fit")


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("2004.02.12.10.32.39", 1076581959),
        ("20040212_103239", 1076581959),
        ("20040212103239", 1076581959),
        ("2004-02-12T10-32-39.500000", 1076581959.5),
        ("2004-02-12 10:32:39.5+01:00", 1076578359.5),
        ("2004-02-12", 1076544000),
        ("20040212", 1076544000),
        ("1076581959", 1076581959),
        ("600", 600),
        ("0", 0),
    ],
)
def test_times_in_names(name: str, seconds: float) -> None:
    assert parse_time(name) == round(seconds * 1e6)


@pytest.mark.parametrize("name", ["monday", "2004-13-12", "nan", "inf", ""])
def test_names_that_are_no_times(name: str) -> None:
    with pytest.raises(ValueError, match=r"month|could not convert|^nan$|^inf$"):
        parse_time(name)


# --- bursts


def bursts(root: Path, name: Callable[[int], str], count: int = 12, rows: int = 64) -> None:
    rng = np.random.default_rng(1)
    for i in range(count):
        written(root / "a" / "m" / name(i), text(rng.normal(size=(rows, 1)) + i))


def test_bursts_are_an_hour_without_a_gap(tmp_path: Path) -> None:
    bursts(tmp_path, lambda i: f"{i + 1}.csv")
    files = Files(
        str(tmp_path / "{site}/{machine}/*.csv"), sample_rate=64.0, classes=["any"], windowing=SHORT, features=FEW
    )
    (machine,) = files.site("a").machines
    assert (len(machine.early), len(machine.late)) == (12, 12)
    assert machine.early.start.max() < machine.late.start.min()
    assert np.unique(machine.early.recording).tolist() == list(range(6))


@pytest.mark.parametrize("name", [lambda i: f"{60 * i}.csv", lambda i: f"2024-01-31T12-{i:02}-00.csv"])
def test_remaining_is_the_time_to_the_last_burst(tmp_path: Path, name: Callable[[int], str]) -> None:
    bursts(tmp_path, name)
    files = Files(str(tmp_path / "{site}/{machine}/{time}.csv"), sample_rate=64.0, target="remaining")
    assert files.classes == ("remaining",)
    assert [recording.target for recording in recordings(files, "a")] == [60.0 * i for i in reversed(range(12))]


def test_remaining_counts_bursts_where_nothing_tells_their_time(tmp_path: Path) -> None:
    bursts(tmp_path, lambda i: f"{i + 1}.csv")
    pattern = str(tmp_path / "{site}/{machine}/*.csv")
    targets = [r.target for r in recordings(Files(pattern, sample_rate=64.0, target="remaining"), "a")]
    assert targets == [float(i) for i in reversed(range(12))]
    timed = recordings(Files(pattern, sample_rate=64.0, target="remaining", interval=10.0), "a")
    assert [recording.target for recording in timed] == [10.0 * i for i in reversed(range(12))]
    assert [recording.start for recording in timed] == [10_000_000 * i for i in range(12)]


def test_one_row_and_odd_rows_change_nothing_but_their_own_windows(tmp_path: Path) -> None:
    bursts(tmp_path, lambda i: f"{i + 1}.csv")
    files = Files(
        str(tmp_path / "{site}/{machine}/*.csv"), sample_rate=64.0, classes=["any"], windowing=SHORT, features=FEW
    )
    before = files.site("a").machines[0]
    for i in (1, 6, 11):
        path = tmp_path / "a" / "m" / f"{i}.csv"
        path.write_text(path.read_text() + "0.5\n")
    written(tmp_path / "a" / "m" / "13.csv", "1.0\n")
    after = files.site("a").machines[0]
    for one, other in ((before.early, after.early), (before.late, after.late)):
        np.testing.assert_array_equal(one.x, other.x)


# --- manifests


def manifest(root: Path, *lines: str, header: str = "file,site,machine,label") -> str:
    return str(written(root / "recordings.csv", "\n".join([header, *lines]) + "\n"))


def test_a_manifest_says_everything(tmp_path: Path) -> None:
    for name in ("a/1.csv", "a/2.csv", "a/10.csv"):
        written(tmp_path / name, text(SIGNAL[:, :1]))
    header = "file;site;machine;label;condition;start;sample_rate;unit;part;scale;speed;note"
    lines = (
        "a/10.csv;p;m;bad;full;2024-01-31 12:30:00;50,5;g;late;2;1797,5;hello",
        "a/2.csv;p;m;good;;0;50,5;;;;1700;",
        "",
        "a/1.csv;p;m;bad;idle;60;50,5;g;early;;1700;",
    )
    files = Files(manifest=manifest(tmp_path, *lines, header=header), unit="g", inputs=["speed"])
    first, second, tenth = recordings(files, "p")
    assert files.classes == ("bad", "good")
    assert (first.condition, second.condition, tenth.condition) == ("idle", "any", "full")
    assert (first.start, second.start, tenth.start) == (60_000_000, 0, 1706704200_000000)
    assert (first.part, second.part, tenth.part) == ("early", None, "late")
    assert (tenth.sample_rate, tenth.unit, second.unit, tenth.inputs) == (50.5, "g", None, {"speed": 1797.5})
    np.testing.assert_allclose(tenth.load(), 2 * SIGNAL[:, 0][None], atol=1e-5)


def test_the_order_of_lines_changes_nothing(tmp_path: Path) -> None:
    lines = []
    for i in range(12):
        written(tmp_path / f"{i}.csv", text(RNG.normal(size=(64, 1))))
        lines.append(f"{i}.csv,p,m{i % 2},{'ab'[i // 6]}")
    told = []
    for seed in range(2):
        random.Random(seed).shuffle(lines)
        files = Files(manifest=manifest(tmp_path, *lines), sample_rate=64.0, windowing=SHORT, features=FEW)
        told.append([machine.early.x for machine in files.site("p").machines])
    np.testing.assert_array_equal(told[0], told[1])


def test_numbers_to_be_estimated(tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        written(tmp_path / name, text(np.stack([[0, 1, 2, 10, 11, 12], range(6)], 1), "t,x"))
    both = manifest(
        tmp_path, "1.csv,p,m,12,0", "2.csv,p,m,7,7", header="file,site,machine,target_first,target_last"
    )
    files = Files(manifest=both, time="t")
    assert files.classes == ("target",)
    assert [recording.target for recording in recordings(files, "p")] == [
        Ramp(12, 10),
        Ramp(2, 0),
        Ramp(7, 7),
        Ramp(7, 7),
    ]
    named = manifest(tmp_path, "1.csv,p,m,12", "2.csv,p,m,8.5", header="file,site,machine,wear")
    files = Files(manifest=named, time="t", target="wear")
    assert (files.classes, {recording.target for recording in recordings(files, "p")}) == (("wear",), {12.0, 8.5})
    with pytest.raises(
        UserError, match=r"line 2, column 'life': expected the number to be estimated, got nothing"
    ):
        recordings(Files(manifest=named, time="t", target="life"), "p")


@pytest.mark.parametrize(
    ("header", "line", "options", "complaint"),
    [
        (
            "file,site,machine,label",
            "9.csv,p,m,a",
            {},
            r"line 2, column 'file': expected a file, got none at '.*9\.csv'",
        ),
        ("file,site,machine,label", ",p,m,a", {}, "line 2, column 'file': expected the file, got an empty cell"),
        (
            "file,machine,label",
            "1.csv,m,a",
            {},
            "line 2, column 'site': expected the site, got the columns file, mach",
        ),
        ("file,site,machine,label", "1.csv,p,m", {}, "line 2: expected 4 columns as in the header, got 3"),
        ("file,site,machine,label", "1.csv,p,m,", {}, r"line 2, column 'label': expected the label of 1\.csv"),
        ("file,site,machine,label", "1.csv,p,,a", {}, r"line 2, column 'machine': expected the machine of 1\.csv"),
        ("file,site,site,label", "1.csv,p,m,a", {}, "line 1: expected each name of a column once"),
        (
            "file,site,label,part",
            "1.csv,p,a,middle",
            {},
            "line 2, column 'part': expected early, late, or nothing",
        ),
        ("file,site,label,start", "1.csv,p,a,soon", {}, "line 2, 'start': expected seconds, or a date and time"),
        ("file,site,label,unit", "1.csv,p,a,m/s2", {"unit": "g"}, "expected samples in g, got m/s2"),
        (
            "file,site,label,sample_rate",
            "1.csv,p,a,fast",
            {},
            "line 2, column 'sample_rate': expected a finite number",
        ),
        ("file,site,label,sample_rate", "1.csv,p,a,0", {}, "line 2, column 'sample_rate': expected Hz above 0"),
        (
            "file,site,label",
            "1.csv,p,a",
            {"inputs": ["speed"]},
            r"1.csv \(p, any\): expected the operating condition 'speed' among its inputs, got none",
        ),
        (
            "file,site,label",
            "1.csv,p,a",
            {"classes": ["b", "c"]},
            "line 2: expected a label among the classes b, c",
        ),
        ("file,site,machine", "1.csv,p,m", {}, "line 2: expected what is to be learnt of it"),
        (
            "file,site,machine,target",
            "1.csv,p,m,x",
            {},
            "line 2, column 'target': expected a finite number, got 'x'",
        ),
    ],
)
def test_manifests_that_are_refused(
    tmp_path: Path, header: str, line: str, options: Mapping[str, Any], complaint: str
) -> None:
    for name in ("1.csv", "2.csv"):
        written(tmp_path / name, text(SIGNAL[:, :1]))
    second = {"file": "2.csv", "site": "p", "machine": "m", "label": "b", "target": "1", "part": "", "start": "0"}
    rest = {"unit": "g", "sample_rate": "10"}
    lines = [line, ",".join({**second, **rest}.get(name, "") for name in header.split(","))]
    files = Files(manifest=manifest(tmp_path, *lines, header=header), **{"sample_rate": 10.0, **options})
    with pytest.raises(UserError, match=complaint):
        recordings(files, "p")


def test_a_file_that_is_listed_twice(tmp_path: Path) -> None:
    written(tmp_path / "1.csv", text(SIGNAL[:, :1]))
    with pytest.raises(
        UserError, match=r"line 3, column 'file': expected each file once, got '1\.csv' as on line 2"
    ):
        recordings(Files(manifest=manifest(tmp_path, "1.csv,p,m,a", "1.csv,p,m,b"), sample_rate=1.0), "p")


# --- what is learnt


def test_one_label_alone_is_refused_unless_anomalies_are_sought(tmp_path: Path) -> None:
    written(tmp_path / "p" / "normal_1.csv", text(SIGNAL[:, :1]))
    pattern = str(tmp_path / "{site}/{label}_*.csv")
    with pytest.raises(
        UserError, match=r"expected files with at least two labels, got 'normal' alone \(1 files\)"
    ):
        Files(pattern, sample_rate=1.0).setup("fit")
    files = Files(pattern, sample_rate=1.0, windowing=SHORT, episodes=Episodes(normal=0, shots=2))
    assert recordings(files, "p")[0].target == 0
    unlabelled = Files(str(tmp_path / "{site}/*.csv"), sample_rate=1.0, classes=["normal"])
    assert recordings(unlabelled, "p")[0].target == 0


def test_too_few_rows_are_told_with_the_file(tmp_path: Path) -> None:
    files = Files(labelled(tmp_path, text(SIGNAL[:40, :1])), sample_rate=1.0, windowing=SHORT)
    with pytest.raises(
        UserError, match=r"ball_1\.csv \(m1, any\): a recording of 40 samples is too short for windows"
    ):
        _ = files.site("plant1").machines


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"files": "a", "manifest": "b"},
        {"files": "a", "unseen": "plant3"},
        {"files": "a", "channels": "x"},
        {"files": "a", "classes": ["x"], "target": "y"},
        {"files": "a", "interval": 0.0},
    ],
)
def test_arguments_that_do_not_fit_together(options: Mapping[str, Any]) -> None:
    with pytest.raises(UserError, match="Files"):
        Files(**options)


def test_sites_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    for ending, write in (("csv", as_csv), ("parquet", as_parquet), ("npy", as_records), ("mat", as_mat)):
        pattern = labelled(tmp_path / ending, "", ending)
        for path in tmp_path.rglob(f"*.{ending}"):
            write(path)
        copies = pickle.loads(pickle.dumps(recordings(Files(pattern, channels=["y"], sample_rate=9.0))))
        np.testing.assert_allclose(copies[0].load()[0], SIGNAL[:, 1], atol=1e-6)


def test_rows_may_be_windows_of_ready_features(tmp_path: Path) -> None:
    files = Files(labelled(tmp_path, text(SIGNAL, "x,y,z")), channels=["x", "y", "z"], windowing=None)
    machine = files.site("plant1").machines[0]
    assert machine.early.shape == (600, 3)
    np.testing.assert_allclose(machine.early.x[:300], SIGNAL[:300], atol=1e-6)


# --- files larger than what is read at once


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy", "wav"])
def test_a_long_file_is_read_in_parts(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.datamodules.files.reading.AT_ONCE", 400)
    pattern = labelled(tmp_path, "", ending)
    for path in tmp_path.rglob(f"*.{ending}"):
        if ending == "npy":
            np.save(path, SIGNAL)
        elif ending == "wav":
            scipy.io.wavfile.write(path, 100, SIGNAL)
        else:
            (as_csv if ending == "csv" else as_parquet)(path)
    parts = [r for r in recordings(Files(pattern, channels=[0, 2], sample_rate=100.0)) if r.target == 0]
    assert [part.shape for part in parts] == [(2, 200), (2, 200), (2, 200), (2, 1)]
    np.testing.assert_allclose(np.concatenate([part.load() for part in parts], 1), SIGNAL[:, [0, 2]].T, atol=1e-6)


PEAK = """
import sys
from fml_lightning.datamodules import Files
from fml_lightning.preprocessing import LogBandPowers, Windowing
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
def windows(pattern):
    files = Files(pattern, channels=[0, 1, 2], sample_rate=25600.0, windowing=Windowing(4096, 4096),
                  features=LogBandPowers(bands=16))
    files.setup("fit")
    return sum(len(m.early) + len(m.late) for site in files.sites.values() for m in site.machines)
windows(sys.argv[1])
before = peak()
for pattern in sys.argv[2:]:
    print(windows(pattern), peak() - before)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to tell the peak of memory")
def test_memory_is_bounded_whatever_the_size_of_the_files(tmp_path: Path) -> None:
    values = np.resize(RNG.normal(size=(1 << 20, 3)).astype(np.float32), ((1 << 23) + 1, 3))
    folders = {"small.npy": values[: 1 << 17], "large.parquet": values, "large.npy": values}
    patterns = [str(tmp_path / name / "{site}" / "{label}.*") for name in folders]
    for name, samples in folders.items():
        (tmp_path / name / "p").mkdir(parents=True)
        first = tmp_path / name / "p" / f"ball{Path(name).suffix}"
        if name.endswith("npy"):
            np.save(first, samples)
        else:
            pl.DataFrame(samples, schema=["x", "y", "z"]).write_parquet(first, compression="uncompressed")
        first.with_stem("normal").hardlink_to(first)
    del values, folders, samples
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) / 2**20
    command = [sys.executable, "-c", PEAK, *patterns]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    assert size > 380
    for line in result.stdout.splitlines():
        windows, mib = map(float, line.split())
        assert windows > 4000
        assert mib < 250, result.stdout


# --- on the command line (tests/test_own_data.py trains on files)


def config(root: Path, **data: Any) -> Path:
    init = {
        "channels": ["acc_x", "acc_y", "acc_z"],
        "sample_rate": 1000,
        "unit": "g",
        "unseen": ["plant3"],
        "windowing": {"length": 64, "hop": 64},
        "features": {"class_path": "fml_lightning.preprocessing.LogBandPowers", "init_args": {"bands": 8}},
        "episodes": {"queries": 3, "tasks": 2, "repeats": 2},
        **data,
    }
    net = {"class_path": "fml_lightning.MLP", "init_args": {"in_features": 24, "out_features": 2, "hidden": [16]}}
    written(
        root / "own.yaml",
        yaml.safe_dump(
            {
                "seed_everything": 0,
                "model": {
                    "learner": {"class_path": "fml_lightning.MAML", "init_args": {"net": net}},
                    "local_steps": 2,
                },
                "data": {"class_path": "fml_lightning.datamodules.Files", "init_args": init},
                "trainer": {"max_steps": 4, "check_val_every_n_epoch": 2, "enable_progress_bar": False},
            }
        ),
    )
    return root / "own.yaml"


def fml(verb: str, path: Path, *arguments: str) -> int:
    return run([verb, "--config", str(path), "--trainer.default_root_dir", str(path.parent / "runs"), *arguments])


def test_a_fault_in_a_file_is_one_sentence_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = labelled(tmp_path / "data", text(SIGNAL, "acc_x,acc_y,acc_z"))
    bad = written(tmp_path / "data" / "plant1" / "m1" / "ball_2.csv", text(SIGNAL[:200], "acc_x,acc_y,acc_z"))
    bad.write_text(bad.read_text() + "1,2,off\n")
    path = config(tmp_path, files=pattern, unseen=["plant2"])
    assert fml("fit", path) != 0
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"ball_2\.csv, line 202, column 'acc_z': expected a number, got 'off'; mend it", told)
