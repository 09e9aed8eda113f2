"""Nameplates: numbers of machines that do not change, for files and for streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from fml_lightning import UserError
from fml_lightning.datamodules import Files, JoinedFleets, SpoolFleet
from fml_lightning.datamodules.fleet import Fleet
from fml_lightning.datamodules.nameplates import Nameplates
from fml_lightning.preprocessing import Column, Features, LogBandPowers, Windowing


class Told(Features):
    """What is told, as features."""

    needs = ("speed", "bpfo", "ftf")

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        return [Column(name, "1") for name in self.needs]

    def __call__(
        self, windows: NDArray[np.float32], sample_rate: float, told: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        assert told is not None
        return told


def test_a_bearing_is_told_by_its_name_or_its_dimensions() -> None:
    plates = Nameplates(
        "Files",
        {
            "north": {"bearing": 6205, "speed": 30},
            "north/m2": {"bearing": {"balls": 8, "ratio": 0.25}, "load": 2},
            "m3": {"bearing": "6203-2Z", "bpfo": 3.0},
        },
    )
    assert plates.of("north", "m1") == {
        "bpfo": 3.5848,
        "bpfi": 5.4152,
        "bsf": 2.35675,
        "ftf": 0.39828,
        "speed": 30,
    }
    # 8/2 · (1 ∓ ¼), (1 − ¹⁄₁₆) / ½ and (1 − ¼) / 2.
    assert plates.of("north", "m2") == {"bpfo": 3, "bpfi": 5, "bsf": 1.875, "ftf": 0.375, "speed": 30, "load": 2}
    assert plates.of("south", "m3")["bpfo"] == 3.0
    assert plates.of("south", "m3")["ftf"] == 0.3817
    assert plates.of("south", "m1") == {}


@pytest.mark.parametrize(
    ("plates", "complaint"),
    [
        ({"m": {"speed": "fast"}}, r"Files.nameplates, m: expected a finite number under 'speed', got 'fast'"),
        ({"m": {"speed": float("nan")}}, "expected a finite number under 'speed', got nan"),
        ({"m": 3}, "nameplates, m: expected a mapping such as"),
        (["m"], "expected a mapping from patterns of machines"),
        ({"m": {"bearing": "6208"}}, "nameplates, m: Bearing: '6208' is not in the table"),
        ({"m": {"bearing": {"balls": 9, "rato": 0.2}}}, "nameplates, m: .*rato"),
        ({"m": {"bearing": 0.5}}, "expected a bearing's designation, or its dimensions"),
    ],
)
def test_what_is_no_nameplate_is_refused(plates: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Nameplates("Files", plates)


def files(folder: Path, said: str = "", **options: Any) -> Files:
    for machine in ("m1", "m2"):
        for label in ("a", "b"):
            np.save(folder / f"{machine}{label}.npy", np.random.default_rng(0).normal(size=100).astype(np.float32))
    rows = [
        f"{m}{label}.npy,p,{m},{label}{said if m == 'm1' else ',' * said.count(',')}"
        for m in ("m1", "m2")
        for label in "ab"
    ]
    header = "file,site,machine,label" + (",speed,bearing" if said else "")
    (folder / "files.csv").write_text("\n".join([header, *rows]) + "\n")
    return Files(
        manifest=str(folder / "files.csv"),
        sample_rate=100.0,
        windowing=Windowing(10, 10),
        features=Told(),
        **options,
    )


def test_what_a_manifest_says_wins_over_the_nameplate(tmp_path: Path) -> None:
    fleet = files(tmp_path, ",25,6203", nameplates={"p": {"speed": 30.0, "bearing": 6205}})
    fleet.setup("fit")
    seen = {machine.name: machine.early.x[0] for machine in fleet.sites["p"].machines}
    np.testing.assert_allclose(seen["m1"], [25, 3.0530, 0.3817], rtol=1e-6)
    np.testing.assert_allclose(seen["m2"], [30, 3.5848, 0.39828], rtol=1e-6)


def test_files_that_lack_what_features_need_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m1a.npy .*: expected the operating condition 'bpfo' .*or in nameplates"):
        files(tmp_path, nameplates={"p": {"speed": 30.0}}).setup("fit")
    with pytest.raises(UserError, match=r"Files.nameplates: .*got 'q', which fits none; sites are p"):
        files(tmp_path, nameplates={"q": {"speed": 30.0}}).setup("fit")


def test_joined_files_tell_all_their_numbers(tmp_path: Path) -> None:
    """The features that need them are those of the joined fleet; the files' own need nothing."""
    own = files(tmp_path, ",25,6203", nameplates={"p": {"speed": 30.0, "bearing": 6205}})
    own.preprocessing = replace(own.preprocessing, features=LogBandPowers(bands=4))
    joined = JoinedFleets({"own": own}, windowing=Windowing(10, 10), features=Told())
    joined.setup("fit")
    seen = {machine.name: machine.early.x[0] for machine in joined.sites["p"].machines}
    np.testing.assert_allclose(seen["m1"], [25, 3.0530, 0.3817], rtol=1e-6)
    np.testing.assert_allclose(seen["m2"], [30, 3.5848, 0.39828], rtol=1e-6)


@pytest.mark.parametrize("init", ["files: 'x/{site}/{label}.csv'", "spools: {north: x}, classes: [a, b]"])
def test_nameplates_parse_from_yaml(init: str) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(Fleet, "data")
    kind = "Files" if init.startswith("files") else "SpoolFleet"
    plates = "{north: {bearing: 6205-2RS, speed: 29.5}, 'north/m*': {bearing: {balls: 9, ratio: .2034}}}"
    rest = "unit: g, sample_rate: 12000, resample: true"
    if kind == "SpoolFleet":
        rest += ", standardize: {of: channels, statistics: {mean: [[0.5]], deviation: [[2.0]]}}"
    config = f"data: {{class_path: {kind}, init_args: {{{init}, nameplates: {plates}, {rest}}}}}"
    config = config.replace("class_path: ", "class_path: fml_lightning.datamodules.")
    fleet = parser.instantiate_classes(parser.parse_string(config)).data
    assert isinstance(fleet, Files | SpoolFleet)
    assert fleet.nameplates.of("north", "fan")["bpfo"] == 3.5848
    assert round(fleet.nameplates.of("north", "m1")["bpfo"], 3) == 3.585
    assert (fleet.preprocessing.unit, fleet.preprocessing.resample) == ("g", True)
