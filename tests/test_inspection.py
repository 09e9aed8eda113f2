"""`fml inspect`: leaks and faults of data that are planted are found, and sound data pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fml_lightning.commands import inspect as verb
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
