"""The data sets: CWRU from Parquet and from .mat files, and the physics of the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import signal
from scipy.io import loadmat, savemat

from fml_lightning import UserError, bearing
from fml_lightning.connectors import Randomization
from fml_lightning.datamodules import CWRU, Episodes, JoinedFleets, Recording, Selection, SimulatedFleet
from fml_lightning.datamodules.cwru_files import FILES, MatSignals, Signal, open_signals
from fml_lightning.datamodules.simulated import SAMPLE_RATE, SimulatedMachine
from fml_lightning.preprocessing import RawWindows, Windowing
from fml_lightning.seeds import derive_seed

SMALL = Windowing(length=256, hop=256)


@pytest.fixture
def mat_root(tmp_path: Path) -> Path:
    """Every file of the ten-class and three-fault problems, short, under its public name."""
    rng = np.random.default_rng(0)
    for (end, *_), numbers in FILES.items():
        for number in numbers.values():
            length = 8192 if end == "normal" else 2048
            variables = {f"X{number:03d}_{c}_time": rng.normal(size=(length, 1)) for c in ("DE", "FE")}
            variables[f"X{number:03d}RPM"] = np.array([[1797]])
            if number == 99:  # the public file holds the recording of 98.mat too
                variables["X098_DE_time"] = np.zeros((length, 1))
            savemat(tmp_path / f"{number}.mat", variables)
    return tmp_path


def test_mat_files_give_ten_classes_per_load(mat_root: Path) -> None:
    fleet = CWRU(str(mat_root), unseen=Selection(loads=(2,)), windowing=SMALL)
    fleet.setup("fit")
    assert list(fleet.sites) == ["drive-load0", "drive-load1", "drive-load3"]
    assert fleet.unseen_machines() == ["drive-load2"]
    machine = fleet.unseen["drive-load2-unseen"].machines[0]
    assert len(fleet.classes) == 10
    assert np.bincount(machine.early.label).tolist() == [4] * 10  # normal: 8192 samples, decimated by 4


def test_mat_files_are_read_by_the_number_in_the_variable(mat_root: Path) -> None:
    signals = open_signals(str(mat_root))
    assert isinstance(signals, MatSignals)
    assert abs(signals.read(Signal("normal", "normal", 2, 0))).max() > 0.5  # X099, not the zeros of X098


def test_normal_recordings_are_brought_from_48_to_12_khz(tmp_path: Path) -> None:
    """A 100 Hz tone sampled at 48 kHz is at 100 Hz of 12 kHz afterwards, with its amplitude."""
    tone = np.sin(2 * np.pi * 100 * np.arange(48_000) / 48_000)
    savemat(tmp_path / "97.mat", {"X097_DE_time": tone[:, None], "X097_FE_time": tone[:, None]})
    values = open_signals(str(tmp_path)).read(Signal("normal", "normal", 0, 0))
    assert len(values) == 12_000
    assert abs(np.fft.rfft(values)).argmax() == 100
    assert abs(values[1000:-1000]).max() == pytest.approx(1, abs=1e-2)


def test_missing_and_broken_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        open_signals(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"expected manifest.csv .* or .mat files"):
        open_signals(str(tmp_path))
    (tmp_path / "97.mat").write_bytes(b"not a mat file")
    signals = open_signals(str(tmp_path))
    with pytest.raises(UserError, match=r"97.mat is not a readable .mat file"):
        signals.read(Signal("normal", "normal", 0, 0))
    with pytest.raises(UserError, match=r"expected 105.mat below .*download it"):
        signals.read(Signal("drive", "inner", 0, 7))
    with pytest.raises(UserError, match=r"expected 313.mat or 310.mat below"):  # 6 o'clock first, then 3
        signals.read(Signal("fan", "outer", 0, 14))


def test_parquet_codes_are_scaled_and_the_six_oclock_fault_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "de12").mkdir()
    for clock in (3, 6):
        pl.DataFrame({"DE": np.array([0, clock], np.int16)}).write_parquet(tmp_path / "de12" / f"{clock}.parquet")
    (tmp_path / "manifest.csv").write_text(
        "file,set,load_hp,fault,clock,diameter_mil,scale_DE,scale_FE\n"
        "de12/3.parquet,de12,0,OR,3,7,0.5,0.5\nde12/6.parquet,de12,0,OR,6,7,0.5,0.5\nde12/6.parquet,de12,0,B,,7,2,2\n"
    )
    signals = open_signals(str(tmp_path))
    assert signals.read(Signal("drive", "outer", 0, 7)).tolist() == [0, 3.0]
    assert signals.read(Signal("drive", "ball", 0, 7)).tolist() == [0, 12.0]
    with pytest.raises(UserError, match="lists no de12 recording"):
        signals.read(Signal("drive", "inner", 0, 7))


def test_unseen_machines_are_never_trained_on(mat_root: Path) -> None:
    for train, unseen in (
        (Selection(), Selection(diameters=(14,))),
        (Selection(), Selection(end="fan")),
        (Selection(), Selection(end="fan", loads_are="conditions")),
        (Selection(loads=(0, 1)), Selection(loads=(1,), diameters=(7,))),
    ):
        fleet = CWRU(str(mat_root), unseen, train, classes="faults", windowing=SMALL)
        fleet.setup("fit")
        trained = {machine.name for site in fleet.sites.values() for machine in site.machines}
        assert not trained & set(fleet.unseen_machines())
        assert not set(fleet.sites) & set(fleet.unseen)


def test_loads_can_be_conditions_of_one_machine(mat_root: Path) -> None:
    unseen = Selection(end="fan", loads_are="conditions")
    fleet = CWRU(str(mat_root), unseen, classes="faults", windowing=SMALL)
    fleet.setup("test")
    assert fleet.unseen_machines() == ["fan-14mil", "fan-21mil", "fan-7mil"]
    assert set(fleet.unseen["fan-unseen"].machines[0].early.condition) == {f"load{i}" for i in range(4)}


def test_each_machine_has_the_normal_recording_of_its_end_and_load(mat_root: Path) -> None:
    """The fan end's machines hear the normal motor at the fan end, brought to 12 kHz as the drive end's is."""
    fleet = CWRU(str(mat_root), Selection("fan", (0, 2)), classes="normal and faults", windowing=SMALL)
    assert fleet.classes == SimulatedFleet.classes
    fleet.setup("fit")
    machine = fleet.unseen["fan-load2-unseen"].machines[0]
    assert np.bincount(machine.early.label).tolist() == [4] * 4  # normal: 8192 samples, decimated by 4
    normals = [r for r in fleet.unseen["fan-load2-unseen"].recordings if r.label == 0]
    assert [r.part for r in normals] == ["early", "late"] * 3
    raw = loadmat(mat_root / "99.mat")["X099_FE_time"].ravel()
    expected = signal.decimate(raw, 4, ftype="fir").astype(np.float32)
    for early, late in zip(normals[::2], normals[1::2], strict=True):
        np.testing.assert_array_equal(np.concatenate([early.load()[0], late.load()[0]]), expected)
        assert early.shape == late.shape
    assert not np.array_equal(fleet.sites["drive-load2"].recordings[0].load(), normals[0].load())
    with pytest.raises(UserError, match="drive end only; set classes to faults, or normal and faults"):
        CWRU(str(mat_root), Selection("fan"), classes="ten")


def test_joined_normals_are_split_by_the_early_share_of_the_joined_fleet(mat_root: Path) -> None:
    cwru = CWRU(str(mat_root), Selection("fan", (0, 2)), classes="normal and faults")
    joined = JoinedFleets({"cwru": cwru}, windowing=SMALL, episodes=Episodes(early_share=0.25))
    normals = [r for r in joined.site("fan-load2-unseen").recordings if r.label == 0]
    assert [(r.part, r.shape[1]) for r in normals[:2]] == [("early", 512), ("late", 1536)]  # of 8192 / 4 samples


def test_no_normal_sample_of_a_held_out_machine_is_trained_on(mat_root: Path) -> None:
    """All diameters share the normal recording of a load: it is cut where some are held out and some are not."""

    def samples(fleet: CWRU, part: str) -> dict[str, set[bytes]]:
        """The normal windows by whether the machine is unseen."""
        found: dict[str, set[bytes]] = {"trained": set(), "unseen": set()}
        for key, sites in (("trained", fleet.sites), ("unseen", fleet.unseen)):
            for site in sites.values():
                for machine in site.machines:
                    windows = getattr(machine, part)
                    found[key] |= {x.tobytes() for x in windows.x[windows.label == 0]}
        return found

    raw = Windowing(length=64, hop=64)
    for held_out in (Selection(diameters=(14,)), Selection(loads=(1,), diameters=(7, 21))):
        fleet = CWRU(str(mat_root), held_out, classes="normal and faults", windowing=raw, features=RawWindows())
        fleet.setup("fit")
        early, late = samples(fleet, "early"), samples(fleet, "late")
        assert len(early["unseen"]) >= 9
        assert len(late["unseen"]) >= 9
        assert not early["trained"] & (early["unseen"] | late["unseen"])
        assert not late["trained"] & late["unseen"]
        assert not early["unseen"] & late["unseen"]


def test_recordings_tell_speed_and_fault_orders(mat_root: Path, tmp_path: Path) -> None:
    fleet = CWRU(str(mat_root), Selection("fan", (2,)), classes="faults", windowing=SMALL)
    inputs = fleet.site("fan-load2-unseen").recordings[0].inputs
    assert inputs["speed"] == pytest.approx(1797 / 60)  # as measured, whatever the load's nominal speed is
    assert {name: inputs[name] for name in ("bpfo", "bpfi", "bsf", "ftf")} == bearing.Bearing.named("6203").inputs
    assert fleet.site("drive-load1").recordings[0].inputs["bpfo"] == 3.5848
    savemat(tmp_path / "98.mat", {"X098_DE_time": np.zeros((8, 1))})
    assert open_signals(str(tmp_path)).speed(Signal("normal", "normal", 1, 0)) == pytest.approx(1772 / 60)
    header = "file,set,load_hp,fault,clock,diameter_mil,scale_DE,scale_FE,rpm_nominal,rpm_measured\n"
    rows = "a,de12,0,B,,7,1,1,1797,1796.0\na,de12,1,B,,7,1,1,1772,\na,normal48,2,normal,,0,1,1,,\n"
    (tmp_path / "manifest.csv").write_text(header + rows)
    signals = open_signals(str(tmp_path))
    assert signals.speed(Signal("drive", "ball", 0, 7)) == pytest.approx(1796 / 60)
    assert signals.speed(Signal("drive", "ball", 1, 7)) == pytest.approx(1772 / 60)
    assert signals.speed(Signal("fan", "normal", 2, 0)) == pytest.approx(1750 / 60)


def test_the_fan_ends_normals_are_the_48_khz_ones(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-1000, 1000, 4096).astype(np.int16)
    pl.DataFrame({"DE": codes * 0, "FE": codes}).write_parquet(tmp_path / "n.parquet")
    (tmp_path / "manifest.csv").write_text(
        "file,set,load_hp,fault,clock,diameter_mil,scale_DE,scale_FE\nn.parquet,normal48,2,normal,,0,1,0.25\n"
    )
    signals = open_signals(str(tmp_path))
    values = signals.read(Signal("fan", "normal", 2, 0))
    expected = signal.decimate(codes * 0.25, 4, ftype="fir").astype(np.float32)
    np.testing.assert_array_equal(values, expected)
    with pytest.raises(UserError, match="lists no normal48 recording"):
        signals.read(Signal("fan", "normal", 1, 0))


def test_impossible_selections_are_refused(mat_root: Path) -> None:
    with pytest.raises(UserError, match="loads of 0 to 3"):
        Selection(loads=(4,))
    with pytest.raises(UserError, match="drive end only"):
        CWRU(str(mat_root), unseen=Selection(end="fan"))
    with pytest.raises(UserError, match="no site is left to train on"):
        CWRU(str(mat_root), unseen=Selection(), windowing=SMALL).setup("fit")
    with pytest.raises(UserError, match="no machine 'pump'; unseen machines are drive-load3,"):
        CWRU(str(mat_root), unseen=Selection(loads=(3,)), windowing=SMALL).site_of("pump")


def test_real_cwru_has_forty_recordings_of_ten_classes(cwru_root: str) -> None:
    """10 s at 12 kHz, halved, windows of 2048 with hop 1024: 57 or 58 per class; normal at load 0: 5 s."""
    fleet = CWRU(cwru_root, unseen=Selection(loads=(3,)))
    fleet.setup("fit")
    for site in [*fleet.sites.values(), *fleet.unseen.values()]:
        counts = np.bincount(site.machines[0].early.label)
        assert len(counts) == 10
        assert counts[1:].min() >= 57
        assert counts[0] == (28 if site.name == "drive-load0" else pytest.approx(58, abs=1))


def test_simulated_faults_repeat_at_their_bearings_frequencies() -> None:
    """The envelope spectrum peaks at BPFO, BPFI and twice BSF, within the slip of 1 %."""
    machine = SimulatedMachine.draw(np.random.default_rng(4))
    machine = replace(machine, noise=0.01, load=1.0)
    expected = {
        "outer": machine.bearing.bpfo * machine.shaft,
        "inner": machine.bearing.bpfi * machine.shaft,
        "ball": 2 * machine.bearing.bsf * machine.shaft,
    }
    for fault, frequency in expected.items():
        x = machine.run(fault, 8.0, np.random.default_rng(0)).astype(np.float64)
        high = signal.sosfiltfilt(signal.butter(4, 1000, "high", fs=SAMPLE_RATE, output="sos"), x)
        envelope = abs(signal.hilbert(high))
        spectrum = abs(np.fft.rfft(envelope - envelope.mean()))
        hertz = np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE)
        near = (hertz > 45) & (hertz < 1.4 * frequency)  # above the shaft and cage modulation
        assert hertz[near][spectrum[near].argmax()] == pytest.approx(frequency, rel=0.02), fault


def test_a_simulated_fleet_is_the_same_for_the_same_seed() -> None:
    def values(seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return SimulatedFleet(seconds=0.5, seed=seed).site("plant1").recordings[0].load()

    np.testing.assert_array_equal(values(1), values(1))
    assert not np.array_equal(values(1), values(2))
    with pytest.raises(UserError, match="at least one site"):
        SimulatedFleet(sites=0, unseen_sites=0)


def test_the_narrow_machines_stay_as_they_were() -> None:
    """What demos and plants have had of a seed they have still: some samples of each class."""
    rng = np.random.default_rng(7)
    machine = SimulatedMachine.draw(rng)
    before = {
        "normal": [-0.05893, -0.41418, -0.08545, 0.2478],
        "ball": [0.50305, -0.02876, -0.09701, 0.17085],
        "inner": [0.30037, -0.16297, -0.56866, 0.20775],
        "outer": [0.40642, -0.19364, -0.41879, -0.11722],
    }
    for fault, expected in before.items():
        values = machine.run(fault, 0.1, rng)
        np.testing.assert_allclose(values[[0, 100, 599, 1199]], expected, atol=2e-5)


@pytest.mark.parametrize("randomization", [None, Randomization(hum=(0.1, 0.2))])
def test_simulated_recordings_tell_speed_and_fault_orders(randomization: Randomization | None) -> None:
    fleet = SimulatedFleet(
        sites=1, unseen_sites=0, machines=2, seconds=0.5, seed=3, randomization=randomization, name="mill"
    )
    recordings = fleet.site("mill1").recordings
    assert [r.machine for r in recordings] == ["mill1-machine1"] * 4 + ["mill1-machine2"] * 4
    rng = np.random.default_rng(derive_seed(3, "mill1-machine2"))
    machine = (randomization or SimulatedMachine).draw(rng)
    for recording, fault in zip(recordings[4:], SimulatedFleet.classes, strict=True):
        assert recording.inputs == {"speed": machine.told_speed(rng), **machine.bearing.inputs}
        assert recording.inputs["speed"] == pytest.approx(machine.shaft, rel=0.01 if randomization else 1e-12)
        np.testing.assert_array_equal(recording.load()[0], machine.run(fault, 0.5, rng))
    assert len({r.inputs["speed"] for r in recordings[4:]}) == (4 if randomization else 1)


def test_a_site_is_opened_alone_and_nothing_of_the_others_is_read() -> None:
    opened = []

    class Watched(SimulatedFleet):
        def _site(self, names: Sequence[str]) -> list[Recording]:
            opened.append(names[0])
            return super()._site(names)

    fleet = Watched(sites=3, unseen_sites=1, machines=1, seconds=0.5)
    assert fleet.site("plant2").machine_names == ["plant2-machine1"]
    assert fleet.site("plant4").machine_names == ["plant4-machine1"]  # an unseen one
    assert opened == ["plant2-machine1", "plant4-machine1"]
    with pytest.raises(UserError, match="Watched: no site 'plant5'; there are plant1, plant2, plant3, plant4"):
        fleet.site("plant5")
