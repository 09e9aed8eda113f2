"""The smartwatch exercises: persons are sites, wrists are machines."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fml_lightning import UserError
from fml_lightning.datamodules import ShoulderWatch
from fml_lightning.datamodules.shoulder_watch import CHANNELS, EXERCISES
from fml_lightning.preprocessing import RawWindows

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three persons; rows in no order."""
    rng = np.random.default_rng(0)
    frames = []
    for person, side, (label, exercise) in product((1, 2, 3), ("left", "right"), enumerate(EXERCISES)):
        samples = {name: rng.normal(100 * label + i, 20, 600).astype(np.int16) for i, name in enumerate(CHANNELS)}
        frames.append(
            pl.DataFrame({"subject": person, "side": side, "exercise": exercise, "t": range(600), **samples})
        )
    pl.concat(frames).sample(fraction=1, shuffle=True, seed=0).write_parquet(tmp_path / "shoulder_watch.parquet")
    return tmp_path


def test_wrists_are_machines_and_features_are_standardized_by_the_training_persons(root: Path) -> None:
    fleet = ShoulderWatch(str(root), train=(1, 2), unseen=(3,))
    fleet.setup("fit")
    assert (list(fleet.sites), list(fleet.unseen)) == (["person1", "person2"], ["person3"])
    assert fleet.unseen["person3"].machine_names == ["person3-left", "person3-right"]
    machine = fleet.sites["person1"].machines[0]
    # The first 300 samples hold windows from 0, 64, 128; the rest begins one window later.
    assert np.bincount(machine.early.label).tolist() == [3] * 7
    assert np.bincount(machine.late.label).tolist() == [1] * 7
    early = np.concatenate([m.early.x for site in fleet.sites.values() for m in site.machines])
    assert early.shape[1] == 60  # mean, deviation and 8 bands of 6 channels
    np.testing.assert_allclose(early.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(early.std(0), 1, atol=1e-4)


def test_samples_are_in_order_of_time_and_in_g(root: Path) -> None:
    fleet = ShoulderWatch(str(root), train=(1,), unseen=(2,), features=RawWindows(), standardize=None)
    recordings = fleet.site("person2").recordings
    table = pl.read_parquet(root / "shoulder_watch.parquet")
    own = table.filter(subject=2, side="right", exercise="ER").sort("t")["wy"].to_numpy()
    (values,) = (r.load() for r in recordings if r.machine.endswith("right") and r.label == EXERCISES.index("ER"))
    np.testing.assert_allclose(values[CHANNELS.index("wy")], own * 0.001, rtol=1e-6)


def test_what_is_wrong_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"none in both, got 1, 2 and 2"):
        ShoulderWatch(str(root), train=(1, 2), unseen=(2,))
    with pytest.raises(UserError, match=r"expected person 4 at the exercises PEN, .*, got none"):
        ShoulderWatch(str(root), train=(1,), unseen=(4,)).site("person4")
    with pytest.raises(UserError, match=r"no shoulder_watch.parquet in 'nowhere'"):
        ShoulderWatch("nowhere").setup("fit")


def test_the_real_data_have_every_exercise_once() -> None:
    root = Path(os.environ.get("FML_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "shoulder_watch" / "shoulder_watch.parquet").is_file():
        pytest.skip(f"needs the exercises below {root}: set FML_DATA to the folder that holds shoulder_watch/")
    fleet = ShoulderWatch(str(root))
    for person in range(1, 11):
        recordings = fleet.site(f"person{person}").recordings
        assert len({(r.machine, r.label) for r in recordings}) == len(recordings) == 14
