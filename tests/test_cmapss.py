"""C-MAPSS: what is trained on, what judges, and the checks that a result on remaining life needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from fml_lightning import MLP, FedAvg, Federation, RemainingUsefulLife, UserError
from fml_lightning.commands.learning import run
from fml_lightning.datamodules import CMAPSS, Episodes
from fml_lightning.datamodules.cmapss import ALTITUDE, SENSORS
from fml_lightning.preprocessing import RawWindows
from fml_lightning.types import Prediction

REPOSITORY = Path(__file__).parent.parent
EPISODES = Episodes(
    shots=2, queries=2, tasks=2, per="recording", of="as they come", permute_labels=False, centre=False, repeats=2
)
LIVES = {"FD001": (40, 50, 60, 70), "FD002": (45, 55, 65, 75), "FD004": (48, 52, 56, 64)}
ENDS = {"FD001": (35, 20), "FD002": (33, 31), "FD004": (8, 40)}
"""Cycles of each test engine; 10 and 150 are left."""


def engines(lives: tuple[int, ...], lefts: tuple[int, ...], altitudes: tuple[int, ...]) -> pl.DataFrame:
    """Engines whose sensors rise by 1 a cycle towards failure, above a level that the altitude sets."""
    frames = []
    for unit, (life, left) in enumerate(zip(lives, lefts, strict=True), 1):
        cycle = np.arange(1, life + 1)
        altitude = np.resize(altitudes, life)
        wear = -(life - cycle + left).astype(float)
        sensors = {name: 1000.0 * altitude + wear * (i + 1) for i, name in enumerate(SENSORS)}
        frames.append(pl.DataFrame({"unit": unit, "cycle": cycle, ALTITUDE: altitude, "op2": 0.0, **sensors}))
    return pl.concat(frames)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three small data sets, of which FD001 flies at one altitude."""
    for name, lives in LIVES.items():
        altitudes = (0,) if name == "FD001" else (0, 20, 35)
        engines(lives, (0,) * 4, altitudes).write_parquet(tmp_path / f"train_{name}.parquet")
        engines(ENDS[name], (10, 150), altitudes).write_parquet(tmp_path / f"test_{name}.parquet")
        (tmp_path / f"RUL_{name}.csv").write_text("unit,rul\n1,10\n2,150\n")
    return tmp_path


def fleet(root: Path, **options: object) -> CMAPSS:
    made = CMAPSS(**{"root": str(root), "train": ("FD001", "FD002"), "episodes": EPISODES, **options})  # type: ignore[arg-type]
    made.setup("fit")
    return made


def test_engines_that_failed_train_and_the_last_window_of_the_others_judges(root: Path) -> None:
    made = fleet(root)
    assert list(made.sites) == ["FD001", "FD002"]
    machine = made.unseen["FD004"].machines[0]
    assert machine.early.target is not None
    assert machine.late.target is not None
    windows = [life - 29 for life in LIVES["FD004"]]
    assert np.bincount(machine.early.recording).tolist() == windows
    assert machine.early.target[: windows[0]].tolist() == list(range(windows[0] - 1, -1, -1))
    assert machine.late.target.tolist() == [10.0, 150.0]  # not capped
    assert made.preprocessing.standardize
    assert made.preprocessing.standardize.statistics
    assert made.preprocessing.standardize.statistics.borders == (10.0, 27.5)


def test_a_short_test_engine_was_before_as_in_its_first_cycle(root: Path) -> None:
    """Test engine 1 of FD004 has 8 cycles: 22 of its window are copies of the first one."""
    x = fleet(root, features=RawWindows()).unseen["FD004"].machines[0].late.x[0]
    assert x.shape == (14, 30)
    assert (x[:, :23] == x[:, :1]).all()
    assert (x[:, 22] != x[:, 23]).all()


def test_no_test_row_is_in_training(root: Path) -> None:
    """Test engines become something else: no training window and no statistic changes."""
    made = fleet(root)
    for path in root.glob("test_*.parquet"):
        frame = pl.read_parquet(path)
        frame.with_columns(pl.col(SENSORS) * 3 + 500, pl.col(ALTITUDE) + 3).write_parquet(path)
    changed = fleet(root)
    assert changed.preprocessing.standardize == made.preprocessing.standardize
    for name, site in made.sites.items():
        np.testing.assert_array_equal(changed.sites[name].machines[0].early.x, site.machines[0].early.x)
        assert (changed.sites[name].machines[0].late.x != site.machines[0].late.x).any()


def test_unseen_engines_change_no_statistic(root: Path) -> None:
    made = fleet(root)
    for path in root.glob("*_FD004.parquet"):
        pl.read_parquet(path).with_columns(pl.col(SENSORS) * 3, pl.col(ALTITUDE) + 5).write_parquet(path)
    assert fleet(root).preprocessing.standardize == made.preprocessing.standardize


@pytest.mark.parametrize("sees", [{}, {"age": True}, {"history": True}, {"history": True, "age": True}])
def test_features_never_see_the_future(root: Path, sees: dict[str, bool]) -> None:
    """What an engine does after a window's last cycle changes nothing in the window."""
    made = fleet(root, **sees)
    machine = made.unseen["FD004"].machines[0]
    path = root / "train_FD004.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(
        pl.when(pl.col("cycle") > 35).then(pl.col(name) * 2 + 9).otherwise(pl.col(name)) for name in SENSORS
    ).write_parquet(path)
    changed = fleet(root, **sees).unseen["FD004"].machines[0]
    ends = (
        machine.early.start // 1_000_000 - np.array([0, *np.cumsum(LIVES["FD004"])[:-1]])[machine.early.recording]
    )
    until = ends + 30 <= 35
    assert 0 < until.sum() < len(until)
    np.testing.assert_array_equal(changed.early.x[until], machine.early.x[until])
    assert (changed.early.x[~until] != machine.early.x[~until]).any(1).all()


def test_an_engines_history_is_its_mean_so_far_at_each_altitude(root: Path) -> None:
    """The first sensor is 1000 · altitude − what is left; altitudes 0, 20 and 35 follow one another.

    Test engine 1 of FD004 has 8 cycles, and 10 are left after them: 17, 16, … 10 at its cycles.
    """
    site = fleet(root, history=True, age=True).unseen["FD004"]
    (first,) = [recording for recording in site.recordings if recording.targets(np.array([29]), 30) == [10]]
    samples = first.load()[:, -8:]
    assert samples[1].tolist() == [-17, 19984, 34985, -14, 19987, 34988, -11, 19990]
    assert samples[1 + len(SENSORS)].tolist() == [-17, 19984, 34985, -15.5, 19985.5, 34986.5, -14, 19987]
    assert samples[-1].tolist() == list(range(1, 9))


def test_history_is_of_all_cycles_and_of_one_engine(root: Path) -> None:
    """Cycles before a test engine's last window count, those of another engine and later ones do not."""

    def means() -> list[np.ndarray]:
        late = [r for r in fleet(root, history=True).unseen["FD004"].recordings if r.part == "late"]
        return [recording.load()[1 + len(SENSORS) :] for recording in late]

    before = means()
    path = root / "test_FD004.parquet"
    frame = pl.read_parquet(path)
    first = (pl.col("unit") == 2) & (pl.col("cycle") == 1)
    frame.with_columns(pl.when(first).then(pl.col(SENSORS) + 13).otherwise(pl.col(SENSORS))).write_parquet(path)
    after = means()
    np.testing.assert_array_equal(after[0], before[0])
    # Engine 2's window is its cycles 11 to 40; cycle 40 is its 14th at altitude 0, where cycle 1 was.
    change = (after[1] - before[1])[:, -1]
    np.testing.assert_allclose(change, np.full(len(SENSORS), 13 / 14), rtol=1e-3)
    np.testing.assert_array_equal(after[1][:, -2], before[1][:, -2])


def test_altitudes_that_differ_by_noise_are_one(root: Path) -> None:
    def means() -> np.ndarray:
        return fleet(root, history=True).unseen["FD004"].recordings[0].load()[1 + len(SENSORS) :]

    before = means()
    for path in root.glob("*_FD00?.parquet"):
        frame = pl.read_parquet(path)
        frame.with_columns(pl.col(ALTITUDE) + pl.col("cycle") % 7 * 0.002 - 0.006).write_parquet(path)
    np.testing.assert_array_equal(means(), before)


def test_age_is_an_input_only_if_asked_for(root: Path) -> None:
    """Without it, an engine's windows are the same however long it has flown before."""
    path = root / "train_FD004.parquet"
    windows = {age: fleet(root, age=age).unseen["FD004"].machines[0].early for age in (False, True)}
    assert [windows[age].shape[1] for age in (False, True)] == [28, 30]
    pl.read_parquet(path).filter(pl.col("cycle") > 5).with_columns(pl.col("cycle") - 5).write_parquet(path)
    for age, before in windows.items():
        after = fleet(root, age=age).unseen["FD004"].machines[0].early
        kept = np.concatenate([np.flatnonzero(before.recording == engine)[5:] for engine in range(4)])
        # Altitudes come in threes and sensors tell only what is left: features but the age are the same.
        np.testing.assert_allclose(after.x[:, :28], before.x[kept][:, :28], atol=1e-4)
        if age:
            assert (after.x[:, 28] < before.x[kept][:, 28]).all()


def line(made: CMAPSS, shuffle: bool) -> dict[str, float]:
    """How well the line of least squares through the training sites' windows does on the unseen test engines."""
    objective = RemainingUsefulLife(cap=40.0)
    windows = [site.machines[0].early for site in made.sites.values()]
    x = np.concatenate([own.x for own in windows])
    y = np.minimum(np.concatenate([own.target for own in windows if own.target is not None]), 40)
    if shuffle:
        y = np.random.default_rng(0).permutation(y)
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=1e-4)[0]
    (episode, *_) = made.unseen["FD004"].test_dataloader()
    query = episode.query.part(slice(0, 1))
    predicted = query.x.numpy() @ weights[:-1] + weights[-1]
    metrics = objective.metrics(torch.tensor(predicted / 40, dtype=torch.float32), query)
    return {name: float(value) for name, value in metrics.items()}


def test_shuffled_targets_give_the_error_of_a_constant_and_both_errors_are_told(root: Path) -> None:
    """With targets of other windows nothing is learnt but their mean; 150 cycles count as 40, and as 150."""
    made = fleet(root)
    honest, shuffled = line(made, shuffle=False), line(made, shuffle=True)
    windows = [site.machines[0].early for site in made.sites.values()]
    mean = np.minimum(np.concatenate([own.target for own in windows if own.target is not None]), 40).mean()
    constant = np.sqrt(((mean - 10) ** 2 + (mean - 40) ** 2) / 2)
    assert shuffled["rmse"] == pytest.approx(constant, rel=0.2)
    assert honest["rmse"] < 0.5 * shuffled["rmse"]
    assert honest["rmse_uncapped"] > honest["rmse"]


def test_no_engine_is_said_to_have_failed_already_or_to_last_longer_than_the_cap(root: Path) -> None:
    """Outputs −1 and 2 are lives of 0 and 40 cycles; 10 and 150 are left, of which 40 count: errors −10 and 0."""
    (episode, *_) = fleet(root).unseen["FD004"].test_dataloader()
    query = episode.query.part(slice(0, 1))
    metrics = RemainingUsefulLife(cap=40.0).metrics(torch.tensor([[-1.0, 2.0]]), query)
    assert metrics["rmse"].item() == pytest.approx((10**2 / 2) ** 0.5)
    assert metrics["rmse_uncapped"].item() == pytest.approx(((10**2 + 110**2) / 2) ** 0.5)
    assert metrics["score"].item() == pytest.approx(np.exp(10 / 13) - 1, rel=1e-5)
    assert metrics["loss"].item() == pytest.approx((1.25**2 + 1) / 2)  # which sees the outputs as they are


def test_airlines_share_a_data_set_out(root: Path) -> None:
    names = {"train": ("FD001",), "unseen": ("FD001-airline2",), "airlines": 2}
    made = fleet(root, **names)
    assert (list(made.sites), list(made.unseen)) == (["FD001-airline1"], ["FD001-airline2"])
    both = [*made.sites.values(), *made.unseen.values()]
    early = sorted(
        recording.shape[1] for site in both for recording in site.recordings if recording.part == "early"
    )
    assert early == sorted(LIVES["FD001"])
    assert [len(site.machines[0].late) for site in both] == [1, 1]
    again = fleet(root, **names, seed=0)
    assert again.sites["FD001-airline1"].machines[0].early.target is not None
    others = {
        tuple(r.shape[1] for r in fleet(root, **names, seed=seed).unseen["FD001-airline2"].recordings)
        for seed in range(8)
    }
    assert len(others) > 1


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"expected train_FD001.parquet .* in 'nowhere'"):
        fleet(Path("nowhere"))
    with pytest.raises(UserError, match=r"expected data sets of FD001, .* got train FD005"):
        CMAPSS(str(root), train=("FD005",))
    with pytest.raises(UserError, match=r"no site FD004-airline3 to hold out; there are FD001, FD002, FD004"):
        fleet(root, unseen=("FD004-airline3",))
    path = root / "train_FD002.parquet"
    frame = pl.read_parquet(path)
    for broken, match in (
        (frame.drop("s7"), r"train_FD002.parquet: expected the columns unit, .* without s7"),
        (frame.filter(pl.col("cycle") != 7), r"a row for every cycle of engine 1, from 1 to 45, got 44 rows"),
        (frame.with_columns(s9=pl.lit(None, pl.Float64)), r"column s9: expected finite numbers"),
        (frame.head(0), r"train_FD002.parquet has no rows"),
    ):
        broken.write_parquet(path)
        with pytest.raises(UserError, match=match):
            fleet(root)
    path.unlink()
    with pytest.raises(UserError, match=r"no file .*train_FD002.parquet; restore it, or leave its data set out"):
        fleet(root)


def test_every_verb_works_on_numbers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(REPOSITORY / "configs" / "cmapss.yaml"), "--data.root", str(root)]
    config += ["--data.train", "[FD001,FD002]", "--data.episodes.shots", "2", "--data.episodes.queries", "1"]
    config += ["--data.episodes.repeats", "2"]
    assert run(["fit", *config, "--trainer.max_steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "rmse (cycles) before -> after adaptation" in shown
    (folder,) = (tmp_path / "runs").rglob("checkpoints")
    (checkpoint, *_) = folder.glob("last*.ckpt")
    for verb in ("test", "predict"):
        assert run([verb, *config, "--ckpt_path", str(checkpoint)]) == 0
    assert "target and predicted in cycles" in capsys.readouterr().out
    (frame,) = map(pl.read_parquet, (tmp_path / "runs").rglob("predict.parquet"))
    assert frame["target"].to_list() == [10.0, 150.0]
    assert run(["personalize", *config, "--ckpt_path", str(checkpoint), "--machine", "FD004"]) == 0
    (card,) = (tmp_path / "runs").rglob("personalize.json")
    assert json.loads(card.read_text())["unit"] == "cycles"


def test_the_configs_step_size_has_fallen_to_0_when_its_rounds_end() -> None:
    """A cosine that ends earlier rises again; one that ends later never settles."""
    config = yaml.safe_load((REPOSITORY / "configs" / "cmapss.yaml").read_text())
    assert config["model"]["scheduler"]["init_args"]["T_max"] == config["trainer"]["max_steps"]


def test_the_real_data_have_the_published_counts() -> None:
    root = Path(os.environ.get("FML_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "cmapss" / "train_FD001.parquet").is_file():
        pytest.skip(f"needs C-MAPSS below {root}: set FML_DATA to the folder that holds cmapss/")
    made = CMAPSS(str(root), train=("FD001", "FD002", "FD003"))
    counts = {}
    for name in ("FD001", "FD002", "FD003", "FD004"):
        parts = [recording.part for recording in made.site(name).recordings]
        counts[name] = (parts.count("early"), parts.count("late"))
    assert counts == {"FD001": (100, 100), "FD002": (260, 259), "FD003": (100, 100), "FD004": (249, 248)}


def test_a_prediction_is_one_number_per_engine(root: Path, quiet_trainer: Callable[..., Trainer]) -> None:
    learner = FedAvg(MLP(28, 1, hidden=(4,)), RemainingUsefulLife())
    predicted = quiet_trainer().predict(Federation(learner), datamodule=fleet(root))
    assert predicted
    (prediction,) = predicted
    assert isinstance(prediction, Prediction)
    assert prediction.targets.tolist() == [[10.0, 150.0]]
    assert prediction.outputs.shape[:2] == (1, 2)
