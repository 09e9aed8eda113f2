"""A run: how long it is, what of its configuration may change, who may train in it, what it can go back to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_cli import CONFIG, fml, weights

from fml_lightning.commands.learning import TRAINING, run
from fml_lightning.commands.run.round_checkpoint import Kept, RoundCheckpoint
from fml_lightning.commands.run.run_config import differences
from fml_lightning.commands.run.run_folder import Runs
from fml_lightning.errors import UserError
from fml_lightning.folder_lock import FolderLock


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The small config, whose Trainer has no limit of its own."""
    path = tmp_path / "small.yaml"
    trainer = {"enable_progress_bar": False, "check_val_every_n_epoch": 100}
    path.write_text(yaml.safe_dump({**CONFIG, "trainer": trainer}))
    return path


def rounds(folder: Path) -> int:
    return int(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


@pytest.fixture
def one_step(config: Path) -> Path:
    """The same with the shortest rounds there are."""
    settings = yaml.safe_load(config.read_text())
    settings["model"]["local_steps"] = 1
    settings["data"]["init_args"]["episodes"]["tasks"] = 1
    config.write_text(yaml.safe_dump(settings))
    return config


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 3),
        ({"max_epochs": 5}, 5),
        ({"max_steps": 4}, 4),
        ({"max_epochs": 5, "max_steps": 4}, 4),
        ({"max_epochs": 2, "max_steps": 4}, 2),
        ({"min_epochs": 4}, 4),
    ],
)
def test_what_the_user_says_of_the_length_of_a_run_holds(
    limits: dict[str, Any], expected: int, one_step: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fml_lightning.commands.learning.ROUNDS", 3)
    settings = yaml.safe_load(one_step.read_text())
    settings["trainer"] |= limits
    one_step.write_text(yaml.safe_dump(settings))
    assert fml("fit", one_step) == 0
    assert rounds(one_step.parent / "runs" / "small" / "1") == expected


def test_a_limit_on_the_command_line_goes_beyond_the_default(
    one_step: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fml_lightning.commands.learning.ROUNDS", 2)
    folder = one_step.parent / "runs" / "small" / "1"
    assert fml("fit", one_step) == 0
    assert rounds(folder) == 2
    # The run's own config.yaml names no limit that its user did not set.
    assert fml("fit", folder / "config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "4") == 0
    assert rounds(folder) == 4


def test_a_resumed_run_keeps_its_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--trainer.max_steps", "1"]
    assert fml("fit", config, *short) == 0
    folder = config.parent / "runs" / "small" / "1"
    own = (folder / "config.yaml").read_text()
    resume = ["--ckpt_path", "last", "--trainer.max_steps", "2"]
    for options, message in (
        (["--model.local_steps", "3"], "model.local_steps 2, now it is 3;"),
        (["--model.learner.inner_loop.lr", "0.7"], "model.learner.inner_loop null, now it is {'lr': 0.7"),
        (["--model.learner", "fml_lightning.Reptile"], "model.learner fml_lightning.MAML, now it is fml_light"),
        (["--data.windowing.hop", "256"], "data.windowing.hop 512, now it is 256"),
        (["--data.episodes.shots", "2"], "data.episodes.shots 1, now it is 2"),
        (["--model.server_optimizer", "torch.optim.Adam"], "model.server_optimizer "),
        (["--trainer.precision", "bf16-mixed"], "trainer.precision null, now it is bf16-mixed"),
        (["--seed_everything", "9"], "seed_everything 3, now it is 9"),
        (["--data.features.bands", "16", "--model.local_steps", "3"], "1 more change: "),
    ):
        capsys.readouterr()
        assert fml("fit", config, *resume, *options) == 1
        said = capsys.readouterr().err
        assert message in said
        assert "--allow_changes" in said
        assert said.count("\n") == 1
        assert (folder / "config.yaml").read_text() == own
    assert rounds(folder) == 1

    # The same configuration in another order, with a default written out, and what is not learned changed.
    settings = yaml.safe_load(config.read_text())
    settings["model"]["patience"] = 9
    settings["model"]["executor"] = {"class_path": "fml_lightning.SerialExecutor"}
    settings["data"]["init_args"]["seed"] = 0
    settings["trainer"]["check_val_every_n_epoch"] = 99
    config.write_text(yaml.safe_dump(dict(reversed(settings.items())), sort_keys=False))
    assert fml("fit", config, *resume) == 0
    assert rounds(folder) == 2
    assert [path.name for path in folder.glob("config*")] == ["config.yaml"]

    longer = ["--ckpt_path", "last", "--trainer.max_steps", "3", "--model.local_steps", "3"]
    assert fml("fit", config, *longer, "--allow_changes") == 0
    assert (folder / "config.yaml").read_text() == own
    assert yaml.safe_load((folder / "config-2.yaml").read_text())["model"]["local_steps"] == 3
    assert fml("fit", config, *longer) == 0  # which is now the run's own
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_seed_may_be_changed_too(config: Path) -> None:
    """The new seed draws the rest of the run, as if the run had begun with it at this round."""
    assert fml("fit", config, "--trainer.max_steps", "1") == 0
    shutil.copytree(config.parent / "runs" / "small" / "1", config.parent / "runs" / "small" / "2")
    folders = [config.parent / "runs" / "small" / n for n in ("1", "2")]
    rest = ["--trainer.max_steps", "2", "--allow_changes"]
    for folder, seed in zip(folders, ("3", "4"), strict=True):
        last = str(folder / "checkpoints" / "last.ckpt")
        assert fml("fit", config, "--ckpt_path", last, "--seed_everything", seed, *rest) == 0
    assert any(not torch.equal(p, weights(folders[0])[name]) for name, p in weights(folders[1]).items())
    for folder, seed in zip(folders, (3, 4), strict=True):
        saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["federation_seed"] == seed


def test_differences_are_named_as_a_user_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()

    def fleet(**settings: Any) -> dict[str, Any]:
        return {"data": {"class_path": "CWRU", "init_args": settings}}

    for here in ("data", "./data", str(tmp_path / "data"), "other/../data/"):
        assert not differences(fleet(root="data"), fleet(root=here))
        assert not differences(fleet(spools={"a": "data"}), fleet(spools={"a": here}))
        assert not differences(fleet(roots=["data"]), fleet(roots=[here]))
    assert differences(fleet(root="data"), fleet(root="other")) == {"data.root": ("data", "other")}
    # A topic is no path, and a slash matters in it.
    assert differences(fleet(topic="plant/a"), fleet(topic="plant/a/")) == {"data.topic": ("plant/a", "plant/a/")}
    assert differences(fleet(centre=True), fleet(centre=1)) == {"data.centre": (True, 1)}
    assert not differences({"model": {"max_wait": 60.0}}, {"model": {"max_wait": 90.0}})

    def net(name: str, **settings: Any) -> dict[str, Any]:
        return {"model": {"learner": {"init_args": {"net": {"class_path": name, "init_args": settings}}}}}

    changed = differences(net("MLP", hidden=[3]), net("Conv1d", channels=2))
    assert changed == {"model.learner.net": ("MLP", "Conv1d")}
    assert not differences({"trainer": {"max_epochs": 1}}, {"trainer": {"max_epochs": 2}})
    for value, is_default in (
        ({"class_path": "fml_lightning.Classification"}, True),
        ({"class_path": "fml_lightning.Classification", "init_args": {"label_smoothing": 0.0}}, True),
        ({"class_path": "fml_lightning.Classification", "init_args": {"label_smoothing": 0.1}}, False),
        ({"class_path": "fml_lightning.Regression"}, False),
    ):
        null, said = ({"model": {"learner": {"init_args": {"objective": each}}}} for each in (None, value))
        assert (not differences(null, said)) == (not differences(said, null)) == is_default
    workers = [{"model": {"executor": {"class_path": "P", "init_args": {"workers": n}}}} for n in (1, 2)]
    assert not differences(*workers)
    precise = [{"model": {"executor": {"init_args": {"precision": p}}}} for p in ("32-true", "bf16-mixed")]
    assert differences(*precise) == {"model.executor.precision": ("32-true", "bf16-mixed")}


def test_a_runs_own_config_means_that_run(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fml("fit", config, "--trainer.max_steps", "1") == 0
    assert fml("fit", config, "--trainer.max_steps", "2") == 0
    first, second = (config.parent / "runs" / "small" / n for n in "12")
    own = first / "config.yaml"
    for verb, options in (
        ("test", []),
        ("validate", []),
        ("predict", []),
        ("personalize", ["--machine", "plant3-machine1"]),
    ):
        assert fml(verb, own, *options) == 0
        made = "predict.parquet" if verb == "predict" else f"{verb}.json"
        assert (first / made).exists()
        assert not (second / made).exists()
    assert fml("fit", own, "--ckpt_path", "last", "--trainer.max_steps", "3") == 0
    assert (rounds(first), rounds(second)) == (3, 2)
    # From another folder too, where the default_root_dir of the config means another place.
    elsewhere = config.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (first / "test.json").unlink()
    assert run(["test", "--config", str(own)]) == 0
    assert (first / "test.json").exists()
    # A path may be relative to the run.
    assert run(["test", "--config", str(own), "--ckpt_path", "checkpoints/last.ckpt"]) == 0
    capsys.readouterr()
    assert run(["test", "--config", str(own), "--ckpt_path", "best"]) == 1
    assert "no best checkpoint, since no round was validated" in capsys.readouterr().err


def test_a_numbered_folder_of_configs_is_no_run(tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "3" / "config.yaml"
    path.parent.mkdir(parents=True)
    assert Runs.of(path, tmp_path / "runs").newest() is None
    (path.parent / "checkpoints").mkdir()
    assert Runs.of(path, tmp_path / "runs").newest() == path.parent


HOLD = """
import sys
from pathlib import Path
from fml_lightning.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), ("", "")).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_two_fits_in_one_folder_are_excluded(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fml("fit", config, "--trainer.max_steps", "1") == 0
    folder = config.parent / "runs" / "small" / "1"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == "held\n"
        capsys.readouterr()
        assert fml("fit", config, "--ckpt_path", "last", "--trainer.max_steps", "2") == 1
        said = capsys.readouterr().err
        assert f"another fml fit is training in this run folder (process {holder.pid})" in said
        assert rounds(folder) == 1
        assert fml("test", config) == 0  # beside it
        assert fml("personalize", config, "--machine", "plant3-machine1") == 0
    finally:
        holder.kill()  # as kill -9 does
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    assert fml("fit", config, "--ckpt_path", "last", "--trainer.max_steps", "2") == 0
    FolderLock(folder, TRAINING).acquire().release()  # a run that has ended lets go


def test_a_lock_excludes_within_a_process_too(tmp_path: Path) -> None:
    with FolderLock(tmp_path, TRAINING).acquire(), pytest.raises(UserError, match="another fml fit"):
        FolderLock(tmp_path, TRAINING).acquire()
    FolderLock(tmp_path, TRAINING).acquire().release()


def kept(folder: Path) -> dict[str, int]:
    return {
        path.stem: int(torch.load(path, weights_only=True)["global_step"])
        for path in sorted((folder / "checkpoints").glob("*.ckpt"))
    }


def test_best_last_and_a_rolling_few_are_kept(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The metric is given round by round, so that the best is known: of rounds 2, 4, 6, 8 it is 4."""
    values = {2: 0.5, 4: 0.9, 6: float("nan"), 8: 0.7}
    original = RoundCheckpoint.on_validation_end

    def given(self: RoundCheckpoint, trainer: Any, pl_module: Any) -> None:
        original(self, trainer, pl_module)
        if self._validated is not None:
            self._validated = values[trainer.global_step]

    monkeypatch.setattr(RoundCheckpoint, "on_validation_end", given)
    options = ["--trainer.check_val_every_n_epoch", "2", "--checkpoints.every", "3", "--checkpoints.keep", "2"]
    assert fml("fit", config, "--trainer.max_steps", "5", *options) == 0
    folder = config.parent / "runs" / "small" / "1"
    assert kept(folder) == {"best": 4, "last": 5, "round-3": 3}
    assert fml("fit", config, "--trainer.max_steps", "9", "--ckpt_path", "last", *options) == 0
    assert kept(folder) == {"best": 4, "last": 9, "round-6": 6, "round-9": 9}
    assert not list((folder / "checkpoints").glob("*.part"))
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    straight = config.parent / "straight"
    root = ["--trainer.default_root_dir", str(straight)]
    assert fml("fit", config, "--trainer.max_steps", "4", *options, *root) == 0
    for name, p in weights(straight / "small" / "1").items():
        assert torch.equal(p, best[name])
    for verb, more in (("test", []), ("personalize", ["--machine", "plant3-machine1"]), ("predict", [])):
        assert fml(verb, config, "--ckpt_path", "best", *more) == 0

    # Back to round 6: rounds 7 to 9 are run again, and their checkpoints replaced.
    ninth = weights(folder)
    assert fml("fit", config, "--ckpt_path", "checkpoints/round-6.ckpt", "--trainer.max_steps", "7", *options) == 0
    assert kept(folder) == {"best": 4, "last": 7, "round-6": 6}
    assert fml("fit", config, "--ckpt_path", "last", "--trainer.max_steps", "9", *options) == 0
    for name, p in weights(folder).items():
        assert torch.equal(p, ninth[name])


def test_going_back_takes_the_personal_state_with_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    personal = ["--model.learner.personal", "[1.*]", "--checkpoints.every", "2", "--checkpoints.keep", "2"]
    assert fml("fit", config, "--trainer.max_steps", "9", *personal) == 0
    folder = config.parent / "runs" / "small" / "1"
    ninth, measured = weights(folder), json.loads((folder / "fit.json").read_text())
    assert set(kept(folder)) == {"last", "round-6", "round-8"}
    # A checkpoint whose personal state is gone says so: round 7 began with what is no longer kept.
    between = folder / "checkpoints" / "mine.ckpt"
    saved = torch.load(folder / "checkpoints" / "round-6.ckpt", weights_only=True)
    saved["state_dict"]["rounds"].fill_(7)
    torch.save({**saved, "global_step": 7}, between)
    capsys.readouterr()
    assert fml("validate", config, "--ckpt_path", str(between), *personal) == 1
    assert "personal state before round 7 is no longer kept" in capsys.readouterr().err
    between.unlink()

    back = ["--ckpt_path", "checkpoints/round-6.ckpt"]
    assert fml("fit", config, *back, "--trainer.max_steps", "9", *personal) == 0
    for name, p in weights(folder).items():
        assert torch.equal(p, ninth[name])
    again = json.loads((folder / "fit.json").read_text())
    assert again["val/accuracy_after"] == measured["val/accuracy_after"]  # measured with the personal heads


def test_checkpoint_settings_are_checked() -> None:
    for settings in ({"every": 0}, {"keep": -1}):
        with pytest.raises(UserError, match="checkpoints: expected"):
            Kept(**settings)


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.devices", "2"],
        ["--trainer.num_nodes", "2"],
        ["--trainer.strategy", "ddp"],
        ["--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"],
    ],
)
def test_the_outer_loop_in_several_processes_is_refused(
    options: list[str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fml("fit", config, *options) == 1
    said = capsys.readouterr().err
    assert said.startswith("fml: error: trainer: a Federation's outer loop runs in one process")
    assert said.count("\n") == 1
    assert not list((config.parent / "runs").glob("*/*"))


def test_a_plain_trainer_with_several_processes_is_refused(
    make_learner: Callable[..., Any], fleet: Any, quiet_trainer: Callable[..., Any]
) -> None:
    from fml_lightning import Federation

    try:
        with pytest.raises(UserError, match="runs in one process"):
            quiet_trainer(strategy="ddp", max_steps=1).fit(Federation(make_learner()), fleet)
    finally:
        if torch.distributed.is_initialized():  # which Lightning did before it asked us
            torch.distributed.destroy_process_group()
