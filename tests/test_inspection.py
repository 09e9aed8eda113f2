"""`fml inspect`: leaks and faults of data that are planted are found, and sound data pass."""

from __future__ import annotations

import re
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from fml_lightning import UserError
from fml_lightning.commands import inspect as verb
from fml_lightning.commands.machine_picture import envelope_spectrum
from fml_lightning.connectors.codecs import WaveformBlock
from fml_lightning.connectors.codecs.waveform import encode_waveform
from fml_lightning.connectors.decoding.topics import Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.datamodules import Episodes, Fleet, Recording, SiteRecordings
from fml_lightning.datamodules.inspection import Inspection, inspect
from fml_lightning.preprocessing import Preprocessing, RawWindows, Windowing


class Given(Fleet):
    classes = ("normal", "worn")

    def __init__(self, sites: dict[str, list[Recording]], unseen: tuple[str, ...] = (), **of: object) -> None:
        preprocessing = of.pop("preprocessing", Preprocessing(Windowing(10, 10), RawWindows()))
        super().__init__(preprocessing, Episodes(**of))  # type: ignore[arg-type]
        self.given, self.held_out = sites, unseen

    def read(self) -> Iterator[SiteRecordings]:
        for name, recordings in self.given.items():
            yield SiteRecordings(name, name in self.held_out, recordings)


def noise(seed: int, samples: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32)


def sound(machine: str, seed: int) -> list[Recording]:
    return [Recording(machine, "c", label, 1e3, noise(10 * seed + label)) for label in (0, 1)]


def looked(*extra: Recording, **of: object) -> Inspection:
    return inspect(Given({"north": [*sound("a", 1), *extra], "south": sound("b", 2)}, **of))  # type: ignore[arg-type]


def test_sound_data_have_no_problems() -> None:
    found = looked()
    assert (found.problems, found.remarks) == ([], [])
    look = found.machines[0]
    assert (look.site, look.machine, look.recordings, look.seconds) == ("north", "a", 2, 0.4)
    assert look.early == {"normal": 10, "worn": 10}
    assert look.late == {"normal": 9, "worn": 9}


def test_equal_windows_on_both_sides_are_a_leak() -> None:
    half = noise(7, 100)
    copied = [Recording("c", "c", 0, 1e3, np.concatenate([half, noise(8, 20), half]))]
    copied += [Recording("c", "c", 1, 1e3, noise(9))]
    found = looked(*copied)
    assert [p for p in found.problems if "north/c has 10 windows that are equal on both sides" in p]


def test_the_same_data_at_a_training_and_an_unseen_site_are_a_leak() -> None:
    found = inspect(Given({"north": sound("a", 1), "south": sound("b", 1)}, unseen=("south",)))
    assert [p for p in found.problems if "north/a and south/b have" in p]


def test_equal_windows_that_nobody_judges_are_no_leak() -> None:
    shared = noise(7, 90)
    machines = [
        [Recording(name, "c", k, 1e3, np.concatenate([shared + k, noise(seed + k, 110)])) for k in (0, 1)]
        for name, seed in (("a", 20), ("b", 30))
    ]
    assert inspect(Given({"north": machines[0], "south": machines[1]})).problems == []


def test_a_feature_that_names_the_recording_is_found() -> None:
    rows = Preprocessing(None, RawWindows(), channels=("rms", "file"))
    recordings = [Recording("a", f"c{k}", k % 2, 1.0, np.stack([noise(k, 40), np.full(40, k)])) for k in range(4)]
    found = inspect(Given({"north": recordings}, preprocessing=rows))
    assert found.problems == [
        "feature 'file' is constant in every recording and differs between them: it names the recording, not the"
        " fault"
    ]


@pytest.mark.parametrize(
    ("recording", "sentence"),
    [
        (Recording("c", "c", 0, 1e3, np.full(200, np.nan)), "north/c: 200 samples are missing (NaN) or infinite"),
        (
            Recording("c", "c", 0, 1e3, np.zeros(200)),
            "north/c: 1 channels of recordings are flat: is the sensor off?",
        ),
        (Recording("c", "c", 0, 1e3, noise(3)), "north/c: one class only, normal; tasks need two"),
        (
            Recording("c", "c", 0, 1e3, noise(3, 12)),
            "north: c, c: a recording of 12 samples is too short for windows",
        ),
    ],
)
def test_what_would_make_training_wrong_is_said(recording: Recording, sentence: str) -> None:
    assert [problem for problem in looked(recording).problems if problem.startswith(sentence)]


def test_clipping_rates_and_rare_classes_are_remarked() -> None:
    loud = np.clip(noise(5, 2000), -0.5, 0.5)
    extra = [Recording("c", "c", 0, 1e3, loud), Recording("c", "c", 1, 2e3, noise(6, 40))]
    remarks = looked(*extra).remarks
    assert "north/c: 1 channels of recordings are clipped at their limits" in remarks
    assert "north/c: several sample rates, 1000, 2000 Hz" in remarks
    assert [remark for remark in remarks if remark.startswith("north/c: worn is rare")]


def test_the_verb_prints_a_table_draws_pictures_and_exits_with_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {not: read}\ndata:\n  class_path: SimulatedFleet\n"
        "  init_args: {sites: 1, unseen_sites: 1, machines: 1, seconds: 1.0}\n"
    )
    assert verb.run([str(config), "--pictures", str(tmp_path / "pictures")]) == 0
    printed = capsys.readouterr().out
    assert "plant1/plant1-machine1  normal 4 + 2, ball 4 + 2" in printed
    assert "nothing would make training wrong" in printed
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "plant1-plant1-machine1.png",
        "plant2-plant2-machine1.png",
    }
    assert verb.run([str(config), "--data.windowing.length", "9000"]) == 1
    assert "too short for windows of 9000" in capsys.readouterr().out


def _with_column(tell: dict[tuple[str, int], float]) -> Inspection:
    """A table of two machines whose second column is constant in every recording."""
    recordings = [
        Recording(m, "c", label, 1.0, np.stack([noise(10 * k + label), np.full(200, value, np.float32)]))
        for k, ((m, label), value) in enumerate(tell.items())
    ]
    return inspect(Given({"north": recordings}, preprocessing=Preprocessing(None, RawWindows(), ("x", "code"))))


def test_a_feature_that_tells_machines_apart_names_no_class() -> None:
    """Such as a maker: both classes of a machine have it."""
    found = _with_column({("a", 0): 0.0, ("a", 1): 0.0, ("b", 0): 1.0, ("b", 1): 1.0})
    assert found.problems == []
    assert (found.machines[0].flat, found.machines[0].rates) == (0, set())


def test_a_feature_that_tells_the_classes_of_each_machine_apart_names_them() -> None:
    found = _with_column({("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 3.0, ("b", 1): 4.0})
    assert [p for p in found.problems if "feature 'code' is constant in every recording" in p]


def test_a_recording_of_one_window_hides_no_feature_that_names_it() -> None:
    recordings = [
        Recording("a", "c", label, 1.0, np.stack([noise(label, n), np.full(n, label, np.float32)]))
        for label, n in ((0, 3), (1, 100))
    ]
    found = inspect(Given({"north": recordings}, preprocessing=Preprocessing(None, RawWindows(), ("x", "code"))))
    assert [p for p in found.problems if "feature 'code' is constant in every recording" in p]


def test_a_machine_under_each_condition_is_looked_at_once_and_classes_have_their_own_names() -> None:
    recordings = [
        Recording("a", condition, label, 1e3, noise(10 * k + label, 200 if label else 400))
        for k, condition in enumerate(("idle", "full"))
        for label in (0, 1)
    ]
    found = inspect(Given({"north": recordings}, tasks_of="conditions", own_order=True))
    assert [(look.machine, look.recordings) for look in found.machines] == [("a, full", 2), ("a, idle", 2)]
    assert all(look.early == {"normal": 20, "worn": 10} for look in found.machines)


def test_a_spool_that_is_not_there_yet_is_nothing_to_learn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data:\n  class_path: SpoolFleet\n  init_args: {{spools: {{north: {tmp_path}/north}}, classes: [a, b]}}\n"
    )
    assert verb.run([str(config)]) == 1
    printed = capsys.readouterr().out
    assert "no training site has any window that can be learnt from" in printed
    assert "north: there is no spool in" in printed


def test_a_machine_without_labelled_windows_is_looked_at_too() -> None:
    part = Recording("c", "c", 0, 1e3, noise(11), part="late")
    assert [problem for problem in looked(part).problems if problem.startswith("north/c: one class only")]


def test_a_spool_without_labels_has_no_window_to_learn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = tmp_path / "north"
    spool.mkdir()
    write_topics(spool, Topics((Topic("plant/{site}/{machine}/{channel}", WaveformBlock()),)))
    begin = 1_800_000_000_000_000
    with Spool(spool) as writer:
        payload = encode_waveform(noise(1, 640), 1000.0, time=begin)
        writer.append([Message("plant/north/m1/vibration", payload, begin)])
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data:\n  class_path: SpoolFleet\n  init_args: {{spools: {{north: {spool}}}, classes: [a, b],"
        " windowing: {length: 64, hop: 64}, features: {class_path: LogBandPowers, init_args: {bands: 8}}}\n"
    )
    assert verb.run([str(config)]) == 1
    assert "no training site has any window that can be learnt from" in capsys.readouterr().out
    assert verb.run([str(spool)]) == 0
    assert "m1" in capsys.readouterr().out


# --- bare files


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, dict[str, object]]:
    """Exit code, what is printed, and the settings that are proposed."""
    code = verb.run([str(argument) for argument in arguments])
    printed = capsys.readouterr().out
    if "data:\n" not in printed:
        return code, printed, {}
    proposal = "data:\n" + printed.split("data:\n")[1].split("\n\n")[0]
    return code, printed, yaml.safe_load(proposal)["data"]["init_args"]


def bursts(root: Path, with_time: bool = False) -> None:
    rng = np.random.default_rng(0)
    for site in ("north", "south"):
        for label in ("ball", "normal"):
            for burst in (1, 2, 10):
                path = root / site / "m1" / f"{label}_{burst}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                x = rng.normal(size=(300, 2))
                frame = pl.DataFrame(x, ["x [g]", "y [g]"])
                if with_time:
                    frame.insert_column(0, pl.Series("time_ms", np.arange(300) * 0.5))
                frame.write_csv(path)


def test_of_a_folder_a_config_is_proposed_that_reads_it_once_the_rate_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bursts(tmp_path / "data")
    code, printed, settings = shown(capsys, tmp_path / "data")
    assert code == 0
    assert settings == {
        "files": str(tmp_path / "data/{site}/{machine}/{label}_[0-9]*.csv"),
        "channels": ["x [g]", "y [g]"],
        "sample_rate": "HZ",
        "unit": "g",
    }
    assert re.search(r"normal_10.csv +300 +2 +\?", printed)
    settings |= {"sample_rate": 1000, "windowing": {"length": 64, "hop": 64}}
    settings["features"] = {"class_path": "LogBandPowers", "init_args": {"bands": 8}}
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump({"data": {"class_path": "Files", "init_args": settings}}))
    assert verb.run([str(config)]) == 0
    assert "north/m1  ball 6 + 5, normal 6 + 5" in capsys.readouterr().out


def test_a_column_of_times_tells_the_rate_in_its_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bursts(tmp_path / "data", with_time=True)
    code, printed, settings = shown(capsys, tmp_path / "data/north/m1/ball_*.csv")
    assert (code, settings["time"], settings["time_unit"]) == (0, "time_ms", "ms")
    assert settings["channels"] == ["x [g]", "y [g]"]
    assert "which tells 2000 Hz" in printed
    assert "sample_rate" not in settings
    assert re.search(r"ball_10.csv +300 +3 +2000", printed)


def test_times_without_a_unit_are_not_taken_for_seconds_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.DataFrame({"t": np.arange(100) / 50, "x": noise(1, 100)}).write_csv(tmp_path / "a.csv")
    assert "time: t  # if it is in seconds, 50 Hz; else set time_unit" in shown(capsys, tmp_path / "a.csv")[1]


def test_a_header_tells_the_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rate in (8000, 16000):
        with wave.open(str(tmp_path / f"{rate}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((1000 * noise(rate, 400)).astype("<i2").tobytes())
    code, printed, settings = shown(capsys, tmp_path / "8000.wav")
    assert (code, settings["sample_rate"]) == (0, 8000)
    code, printed, settings = shown(capsys, tmp_path)
    assert code == 1
    assert "sample rates differ: 8000 Hz of" in printed


def test_rows_with_text_are_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = 96
    frame = pl.DataFrame(
        {
            "plant": [f"p{i % 2}" for i in range(rows)],
            "hour": range(rows),
            "rms": noise(1, rows),
            "verdict": ["ok" if i % 3 else "worn" for i in range(rows)],
        }
    )
    frame.write_csv(tmp_path / "rows.csv", separator=";", decimal_comma=True)
    code, printed, settings = shown(capsys, tmp_path / "rows.csv")
    assert code == 0
    assert settings == {"path": str(tmp_path / "rows.csv"), "site": "plant", "target": "COLUMN", "time": "hour"}
    assert "which one of plant, hour, rms, verdict?" in printed
    config = tmp_path / "own.yaml"
    data = {"class_path": "Table", "init_args": settings | {"target": "verdict"}}
    config.write_text(yaml.safe_dump({"data": data}))
    assert verb.run([str(config)]) == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n3,x\n5,6\n", "line 3, column 'b': expected a number, got 'x'"),
        ("a,b\n1,2\n3,\n5,6\n", "column 'b': 1 of 3 samples are missing or infinite"),
        ("a,b\n1,2\n3,2\n5,2\n", "column 'b': 2 in all 3 rows; is the sensor off"),
        ("a,b\n1,2\n3,2,7\n5,2\n", "line 3: expected 2 columns"),
        ("t,b\n1,2\n3,3\n2,4\n", "expected times that increase, got 2 s in line 4"),
        ("a,b\n", "no rows of samples"),
        ("", "got an empty file"),
    ],
)
def test_what_is_wrong_with_a_bare_file_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    code, printed, _ = shown(capsys, tmp_path / "a.csv")
    assert code == 1
    assert sentence in printed.split("would make training wrong:")[1]


def test_files_of_other_columns_and_what_is_not_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.DataFrame({"x": noise(1, 9)}).write_csv(tmp_path / "a.csv")
    pl.DataFrame({"y": noise(1, 9)}).write_csv(tmp_path / "b.csv")
    code, printed, _ = shown(capsys, tmp_path)
    assert code == 1
    assert "b.csv: expected 1 columns, x, as of" in printed
    with pytest.raises(UserError, match="expected a config, files, a folder of them or a spool, found nothing"):
        verb.run([str(tmp_path / "c.csv")])
    with pytest.raises(UserError, match="--pictures: bare files take no settings"):
        verb.run([str(tmp_path), "--pictures", "x"])


def test_clipped_bare_files_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.clip(noise(5, 2000), -0.5, 0.5))
    code, printed, settings = shown(capsys, tmp_path / "a.npy")
    assert code == 0
    assert "1 clipped" in printed
    assert "channels" not in settings


def test_the_envelopes_spectrum_of_a_picture_has_its_line_where_the_fault_repeats() -> None:
    """Bursts of ringing at 3.58 per revolution of a shaft at 25 Hz, in noise."""
    rate, speed, order = 12_000.0, 25.0, 3.58
    time = np.arange(60_000) / rate
    since = time % (1 / (order * speed))
    signal = np.exp(-800 * since) * np.sin(2 * np.pi * 3000 * since)
    signal += 0.05 * np.random.default_rng(0).normal(size=len(time))
    orders, amplitudes = envelope_spectrum(signal.astype(np.float32), rate, speed)
    assert orders[amplitudes.argmax()] == pytest.approx(order, abs=1 / 16)  # the spectrum's resolution
    assert not len(envelope_spectrum(signal[:100].astype(np.float32), rate, speed)[0])
    assert not len(envelope_spectrum(signal.astype(np.float32), 1.0, speed)[0])  # as of a slow channel
