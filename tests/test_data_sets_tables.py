"""Hospitals, a water circuit, a fan and bearings: what each data set holds, on the real files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fml_lightning import UserError
from fml_lightning.datamodules import MFPT, SKAB, Episodes, Fleet, HeartHospitals, SimulatedFleet, UCIFan
from fml_lightning.preprocessing import RawWindows, Windowing

DATA = Path(os.environ.get("FML_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def root(folder: str) -> str:
    """Where the data are, or the test is skipped."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"{folder} is not at {DATA}: set FML_DATA to the folder of the data")
    return str(DATA)


def counts(fleet: Fleet) -> dict[str, tuple[list[int], list[int]]]:
    """Early and late windows of each class, by machine."""
    fleet.setup("fit")
    classes = len(fleet.classes)
    return {
        machine.name: (
            np.bincount(machine.early.label, minlength=classes).tolist(),
            np.bincount(machine.late.label, minlength=classes).tolist(),
        )
        for site in (*fleet.sites.values(), *fleet.unseen.values())
        for machine in site.machines
    }


def test_hospitals_have_the_patients_of_flamby() -> None:
    """303, 261, 46 and 130 patients; of each class a patient is the gap, and one is alone in Switzerland."""
    fleet = HeartHospitals(root("heart_hospitals"))
    found = counts(fleet)
    totals = {name: sum(early) + sum(late) for name, (early, late) in found.items()}
    assert totals == {"cleveland": 303 - 2, "hungarian": 261 - 2, "switzerland": 46 - 2, "va": 130 - 2}
    assert found["switzerland"] == ([0, 22], [0, 22])
    assert list(fleet.unseen) == ["va"]
    assert len(fleet.preprocessing.channels) == 15
    table = pl.read_csv(DATA / "heart_hospitals" / "heart_hospitals.csv").filter(hospital="cleveland", num=0)
    early = fleet.sites["cleveland"].machines[0].early
    statistics = fleet.preprocessing.standardize
    assert statistics is not None
    assert statistics.statistics is not None
    ages = early.x[early.label == 0, 0] * statistics.statistics.deviation[0][0] + statistics.statistics.mean[0][0]
    np.testing.assert_allclose(ages, table["age"].head(len(ages)), rtol=1e-5)


def test_all_patients_are_kept_where_gaps_become_columns() -> None:
    fleet = HeartHospitals(root("heart_hospitals"), preparation="all", unseen=["cleveland"])
    found = counts(fleet)
    kept = sum(sum(early) + sum(late) for early, late in found.values())
    assert kept == 920 - 8 - 7  # 8 are healthy in Switzerland, too few; of each other class a patient is the gap
    assert "ca missing" in fleet.preprocessing.channels
    assert "age missing" not in fleet.preprocessing.channels


def test_experiments_learn_from_their_first_400_rows() -> None:
    fleet = SKAB(root("skab"))
    found = counts(fleet)
    assert len(found) == 35
    assert [len(site.machines) for site in fleet.sites.values()] == [1, 14]
    early, late = (np.sum([side[i] for side in found.values()], axis=0) for i in (0, 1))
    assert early.sum() + late.sum() == 46_806
    assert early[1] + late[1] == 6_309 + 1_517 + 5_241
    assert {name for name, (early, _) in found.items() if early != [400, 0]} == {"other-2"}
    assert found["valve1-0"][0] == [400, 0]


def test_sensors_of_an_experiment_are_told_in_its_own_deviations() -> None:
    """Mean 0 and deviation 1 of its first normal rows: 400, but 104 of the experiment that is disturbed then."""
    site = SKAB(root("skab")).site("other")
    table = pl.read_parquet(DATA / "skab" / "skab.parquet").filter(group="other")
    for file, normal in ((1, 400), (2, 104)):
        pressure = table.filter(pl.col("file").cast(pl.String) == str(file))["Pressure"].to_numpy()
        expected = (pressure - pressure[:normal].mean()) / pressure[:normal].std()
        own = [recording.load()[3] for recording in site.recordings if recording.machine == f"other-{file}"]
        np.testing.assert_allclose(np.concatenate(own), expected, rtol=1e-3, atol=1e-3)
    as_it_is = SKAB(root("skab"), scale="unit").site("other").recordings[0]
    assert as_it_is.load()[3, 0] == np.float32(table.sort("file", maintain_order=True)["Pressure"][0])


def test_windows_of_rows_hold_one_class() -> None:
    from fml_lightning.preprocessing import Windowing

    found = counts(SKAB(root("skab"), unseen=["valve1", "other"], windowing=Windowing(length=10, hop=10)))
    assert found["valve1-0"][0] == [40, 0]
    assert found["anomaly-free-0"] == ([40, 0], [(9405 - 400) // 10, 0])


def test_a_fan_runs_at_17_speeds_which_are_machines_or_conditions() -> None:
    fleet = UCIFan(root("uci_fan"))
    found = counts(fleet)
    windows = (1500 - 128) // 64 + 1
    late = (1500 - 128 - 128) // 64 + 1
    assert len(found) == 17
    assert set(map(str, found.values())) == {str(([windows] * 3, [late] * 3))}
    assert list(fleet.unseen) == [f"speed{speed}" for speed in range(75, 101, 5)]
    fleet = UCIFan(root("uci_fan"), speeds_are="conditions")
    fleet.setup("fit")
    (machine,) = fleet.unseen["fan-unseen"].machines
    assert set(machine.early.condition) == {f"{speed} %" for speed in range(75, 101, 5)}
    assert machine.early.shape == (6 * 3 * windows, 3 * 18)


def test_bearings_fail_in_the_inner_or_the_outer_race_at_seven_loads() -> None:
    fleet = MFPT(root("mfpt"))
    found = counts(fleet)
    early, late = (73_242 - 2048) // 1024 + 1, (73_242 - 2048 - 2048) // 1024 + 1
    assert found == {f"load-{load}": ([early] * 2, [late] * 2) for load in ("low", *range(50, 301, 50))}
    assert list(fleet.unseen) == ["load-250", "load-300"]
    assert fleet.site("load-50").recordings[0].load().std() == pytest.approx(
        1.764, abs=2e-3
    )  # rms, of its manifest


def mfpt_files(folder: Path) -> None:
    """Files as those of MFPT: tones of 500 Hz, louder from file to file."""
    names = [*(f"inner_{load}lbs" for load in range(0, 301, 50)), "outer_25lbs"]
    names += [*(f"outer_{load}lbs" for load in range(50, 301, 50)), *(f"baseline_{i}" for i in (1, 2, 3))]
    for i, name in enumerate(names):
        rate, seconds = (97_656, 2) if "baseline" in name else (48_828, 1)
        tone = (1 + i) * np.sin(2 * np.pi * 500 * np.arange(rate * seconds) / rate)
        pl.DataFrame({"x": tone.astype(np.float32)}).write_parquet(folder / f"{name}.parquet")


def test_machines_of_mfpt_have_normals_of_their_own_side_at_one_rate(tmp_path: Path) -> None:
    mfpt_files(tmp_path)
    windowing = Windowing(1200, 1200)
    fleet = MFPT(
        str(tmp_path),
        classes="normal and faults",
        sample_rate=12_000,
        windowing=windowing,
        features=RawWindows(),
        episodes=Episodes(shots=2, of="normal only", normal="normal", permute_labels=False, centre=False),
    )
    found = counts(fleet)
    assert fleet.classes == SimulatedFleet.classes  # though there is no ball's fault
    # 12,000 samples of a fault; 24,000 of each baseline, of which a training machine has two: one early, one late.
    assert found["load-50"] == ([20, 0, 5, 5], [20, 0, 4, 4])
    assert found["load-300"] == ([10, 0, 5, 5], [9, 0, 4, 4])
    for site, loudest in ((fleet.sites["load-50"], 16), (fleet.unseen["load-300"], 17)):  # the last baseline's
        machine = site.machines[0]
        normal = machine.late.x[machine.late.label == 0]
        assert abs(normal).max() == pytest.approx(loudest, rel=0.05)
        assert abs(np.fft.rfft(normal[0].ravel())).argmax() == 50  # 500 Hz in a window of 0.1 s
        inputs = site.recordings[0].inputs
        assert inputs["speed"] == 25.0
        assert inputs["bpfo"] == pytest.approx(3.245, abs=1e-3)
        assert inputs["bpfi"] == pytest.approx(4.755, abs=1e-3)
    (episode,) = fleet.unseen["load-250"].predict_dataloader()
    assert episode.support.y.tolist() == [[0, 0]]
    assert sorted(set(episode.query.y[0].tolist())) == [0, 2, 3]


def test_without_baselines_the_faults_are_there_and_normals_are_asked_for(tmp_path: Path) -> None:
    mfpt_files(tmp_path)
    for path in tmp_path.glob("baseline*"):
        path.unlink()
    assert MFPT(str(tmp_path)).site("load-50").recordings[0].sample_rate == 48_828
    with pytest.raises(UserError, match=r"MFPT: expected baseline_3.parquet in"):
        MFPT(str(tmp_path), classes="normal and faults").site("load-300")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: HeartHospitals("nowhere"),
            "HeartHospitals: expected heart_hospitals.csv in 'nowhere', or in the",
        ),
        (lambda: SKAB("nowhere").setup("fit"), "SKAB: expected skab.parquet in 'nowhere'"),
        (lambda: UCIFan("nowhere").setup("fit"), "UCIFan: expected accelerometer.parquet in 'nowhere'"),
        (lambda: MFPT("nowhere").setup("fit"), "MFPT: expected inner_0lbs.parquet in 'nowhere'"),
        (lambda: SKAB("nowhere", unseen=["valve3"]), "SKAB: expected in unseen groups of anomaly-free, other"),
        (lambda: SKAB("nowhere", scale="own"), "SKAB: expected scale experiment, fleet or unit, got 'own'"),
        (lambda: UCIFan("nowhere", unseen=[77]), r"UCIFan: expected in unseen some speeds of 20, .*, got \[77\]"),
        (lambda: MFPT("nowhere", unseen=["60"]), "MFPT: expected in unseen some loads of low, 50"),
    ],
)
def test_what_is_not_there_is_told(make: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make()  # type: ignore[operator]
