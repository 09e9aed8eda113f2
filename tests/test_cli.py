"""The command line as a user meets it: what it writes, what it says, and how it resumes."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from fml_lightning import PersonalModel
from fml_lightning.commands.learning import run
from fml_lightning.commands.report import prediction_table, shown_frame
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.types import Prediction

REPOSITORY = Path(__file__).parent.parent

CONFIG = {
    "seed_everything": 3,
    "model": {
        "learner": {
            "class_path": "fml_lightning.MAML",
            "init_args": {
                "net": {
                    "class_path": "fml_lightning.MLP",
                    "init_args": {"in_features": 32, "out_features": 4, "hidden": [16]},
                }
            },
        },
        "local_steps": 2,
    },
    "data": {
        "class_path": "fml_lightning.datamodules.SimulatedFleet",
        "init_args": {
            "sites": 2,
            "unseen_sites": 1,
            "machines": 2,
            "seconds": 1.5,
            "windowing": {"length": 512, "hop": 512},
            "features": {"class_path": "fml_lightning.preprocessing.LogBandPowers", "init_args": {"bands": 32}},
            "episodes": {"queries": 3, "tasks": 3, "repeats": 2},
        },
    },
    "trainer": {"max_steps": 4, "check_val_every_n_epoch": 2, "enable_progress_bar": False},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def fml(verb: str, config: Path, *arguments: str) -> int:
    return run(
        [verb, "--config", str(config), "--trainer.default_root_dir", str(config.parent / "runs"), *arguments]
    )


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(state, dict)
    return state


def test_every_verb_measures_and_says_what_it_wrote(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = config.parent / "runs" / "small" / "1"
    assert fml("fit", config) == 0
    printed = capsys.readouterr().out
    assert f"run folder: {folder}" in printed
    assert re.search(r"plant3 +plant3-machine1 +0\.\d{3} -> [01]\.\d{3}", printed)
    assert f"wrote {folder / 'fit.json'}, {folder / 'fit.png'}" in printed
    fit = json.loads((folder / "fit.json").read_text())
    assert fit["rounds"] == 4
    assert {m["machine"] for m in fit["machines"]} == {"plant3-machine1", "plant3-machine2"}
    means = np.mean([[m["before"], m["after"]] for m in fit["machines"]], axis=0)
    np.testing.assert_allclose([fit["test/accuracy_before"], fit["test/accuracy_after"]], means, atol=1e-6)
    assert 0 <= fit["val/accuracy_after_worst_site"] <= fit["val/accuracy_after"] <= 1
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["local_steps"] == 2
    logged = pl.read_csv(folder / "logs" / "version_0" / "metrics.csv")
    assert {"train/meta_loss", "round/sites", "round/update_norm", "val/accuracy_after"} <= set(logged.columns)

    assert fml("test", config) == 0
    test = json.loads((folder / "test.json").read_text())
    assert test["test/accuracy_after"] == fit["test/accuracy_after"]  # the same support sets

    assert fml("validate", config, "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")) == 0
    validate = json.loads((folder / "validate.json").read_text())
    assert validate["val/accuracy_after"] == fit["val/accuracy_after"]

    assert fml("predict", config) == 0
    predicted = pl.read_parquet(folder / "predict.parquet")
    assert predicted["machine"].unique().sort().to_list() == ["plant3-machine1", "plant3-machine2"]
    probabilities = predicted.select("p_normal", "p_ball", "p_inner", "p_outer").to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_personalize_writes_a_model_that_works_alone(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = config.parent / "runs" / "small" / "1"
    assert fml("fit", config) == 0
    capsys.readouterr()
    assert fml("personalize", config, "--ckpt_path", "last", "--machine", "plant3-machine2") == 0
    printed = capsys.readouterr().out
    card = json.loads((folder / "personalize.json").read_text())
    assert card["model"] == "machines/plant3/plant3-machine2/v1/model.safetensors"
    beside = json.loads((folder / card["model"]).with_name("card.json").read_text())
    assert {**beside, "model": card["model"]} == card
    assert f"plant3/plant3-machine2: {card['verdict']}\n  accuracy {card['before']:.3f} -> " in printed
    assert (card["machine"], card["site"], card["shots"]) == ("plant3-machine2", "plant3", 1)
    assert card["seconds"] > 0

    model = PersonalModel.load(folder / card["model"])
    init = CONFIG["data"]["init_args"]  # type: ignore[index]
    assert isinstance(init, dict)
    from fml_lightning.datamodules import Episodes
    from fml_lightning.preprocessing import LogBandPowers, Windowing

    fleet = SimulatedFleet(
        **{k: init[k] for k in ("sites", "unseen_sites", "machines", "seconds")},
        windowing=Windowing(**init["windowing"]),
        features=LogBandPowers(bands=32),
        episodes=Episodes(),
    )
    late = next(m for m in fleet.site_of("plant3-machine2").machines if m.name == "plant3-machine2").late
    accuracy = (model(torch.from_numpy(late.x)).argmax(-1).numpy() == late.label).mean()
    assert accuracy == pytest.approx(card["after"], abs=1e-6)
    assert model.classes == fleet.classes

    assert fml("personalize", config, "--machine", "all") == 0
    assert "wrote 2 models" in capsys.readouterr().out
    assert len(json.loads((folder / "personalize.json").read_text())["machines"]) == 2
    assert (folder / "machines/plant3/plant3-machine2/v2/model.safetensors").is_file()


def test_a_second_run_takes_a_folder_of_its_own_and_repeats_the_numbers(config: Path) -> None:
    assert fml("fit", config) == 0
    assert fml("fit", config) == 0
    first, second = (config.parent / "runs" / name for name in ("small/1", "small/2"))
    for name, p in weights(first).items():
        assert torch.equal(p, weights(second)[name])
    assert fml("fit", config, "--seed_everything", "4") == 0
    assert any(
        not torch.equal(p, weights(first)[name]) for name, p in weights(config.parent / "runs/small/3").items()
    )


@pytest.mark.long
def test_killed_in_any_round_and_resumed_ends_with_the_same_parameters(config: Path) -> None:
    """kill -9 before the first checkpoint and between later ones; then the same command with --ckpt_path last."""
    count = 60  # it takes seconds from the last kill to the end, lest that be missed
    rounds = ["--trainer.max_steps", f"{count}"]
    assert (
        run(["fit", "--config", str(config), "--trainer.default_root_dir", str(config.parent / "whole"), *rounds])
        == 0
    )
    folder = config.parent / "runs" / "small" / "1"
    last = folder / "checkpoints" / "last.ckpt"
    command = [
        sys.executable,
        "-m",
        "fml_lightning",
        "fit",
        "--config",
        str(config),
        "--ckpt_path",
        "last",
        *rounds,
    ]
    command += ["--trainer.default_root_dir", str(config.parent / "runs")]

    def saved() -> int:
        return int(torch.load(last, weights_only=True)["global_step"]) if last.exists() else -1

    for wait_for in (None, 3, 6):
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=config.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 1200
        while not folder.exists() if wait_for is None else saved() < wait_for:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        assert process.poll() is None  # it is killed at work, not after it
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert saved() < count
    assert fml("fit", config, "--ckpt_path", "last", *rounds) == 0
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    assert saved() == count
    for name, p in weights(config.parent / "whole" / "small" / "1").items():
        assert torch.equal(p, weights(folder)[name])
    assert fml("fit", config, "--ckpt_path", "last", "--seed_everything", "9") == 1


def test_a_class_that_fails_to_construct_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user's network whose constructor fails; a bug of ours would show its traceback."""
    (config.parent / "failing_net.py").write_text(
        "import torch\n\nclass MyNet(torch.nn.Module):\n    def __init__(self) -> None:\n"
        "        super().__init__()\n        self.width = {}['width']\n"
    )
    sys.path.append(str(config.parent))
    try:
        settings = yaml.safe_load(config.read_text())
        settings["model"]["learner"]["init_args"]["net"] = "failing_net.MyNet"
        config.write_text(yaml.safe_dump(settings))
        assert fml("fit", config) == 1
    finally:
        sys.path.remove(str(config.parent))
        sys.modules.pop("failing_net", None)
    said = capsys.readouterr().err
    assert re.search(r"fml: error: .*failing_net.py, line 6, in __init__: KeyError: 'width'\n$", said)


def test_a_failed_resume_removes_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fml("fit", config, "--trainer.max_steps", "1") == 0
    folder = config.parent / "runs" / "small" / "1"
    kept = sorted(folder.rglob("*"))
    elsewhere = config.parent / "models" / "checkpoints" / "best.ckpt"
    elsewhere.parent.mkdir(parents=True)
    shutil.copy(folder / "checkpoints" / "last.ckpt", elsewhere)
    for ckpt_path in ("last", str(elsewhere)):
        assert fml("fit", config, "--ckpt_path", ckpt_path, "--model.cohort.count", "9") == 1
    assert "expected at least 9 sites" in capsys.readouterr().err
    for verb in ("fit", "test"):
        assert fml(verb, config, "--ckpt_path", str(elsewhere), "--model.learner.net.hidden", "[7]") == 1
        assert "does not fit the config's model" in capsys.readouterr().err
    assert set(kept) <= set(folder.rglob("*"))
    assert elsewhere.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


BAD = {
    "a missing config": (["--config", "nowhere.yaml"], r"File does not exist.*nowhere.yaml"),
    "a misspelt option": (["--modle.x", "3"], r"no option --modle.x; did you mean model"),
    "a misspelt key of the data": (["--data.episodes.shotz", "3"], r"no option episodes.shotz"),
    "a misspelt key of the learner": (
        ["--model.learner.nett", "3"],
        r"model.learner: .*'nett' is not accepted by fml_lightning.MAML; did you mean net\?",
    ),
    "an unknown learner": (
        ["--model.learner", "fml_lightning.MAMLL"],
        r"no class and no file fml_lightning.MAMLL",
    ),
    "an unknown fleet": (["--data", "Fleeet"], r"data: no class and no file Fleeet"),
    "a word for a number": (
        ["--data.episodes.shots", "many"],
        r"episodes.shots: expected int, got many",
    ),
    "no shots": (["--data.episodes.shots", "0"], r"expected shots, .* >= 1"),
    "more shots than there are": (
        ["--data.episodes.shots", "500"],
        r"plant1-machine1: expected at least 500 early windows",
    ),
    "a net of another width": (["--model.learner.net.in_features", "9"], r"set the net's in_features to 32"),
    "too few outputs": (["--model.learner.net.out_features", "2"], r"labels need 4 classes"),
    "a rate that diverges": (
        ["--model.learner.inner_loop.lr", "1e30"],
        r"before training, when it tried to adapt; plant1 said: MAML: adaptation diverged .*; lower its lr$",
    ),
    "a cohort too large": (["--model.cohort.count", "9"], r"expected at least 9 sites, got 2"),
    "an adaptation that diverges": (
        ["--model.learner.adaptation.lr", "1e30"],
        r"adaptation diverged .*lower its lr",
    ),
    "a seed out of range": (["--seed_everything", "-1"], r"-1 is not in bounds"),
    "bands that do not fit": (["--data.features.bands", "100"], r"100 bands do not divide the 256 spectral lines"),
    "a callback that cannot work": (
        ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/acuracy"],
        r"val/acuracy.* is not available",
    ),
    "a checkpoint that is none": (["--ckpt_path", __file__], r"is not a checkpoint"),
    "a checkpoint that is not there": (["--ckpt_path", "no.ckpt"], r"no file 'no.ckpt'"),
    "CWRU without a root": (
        ["--data", "fml_lightning.datamodules.CWRU", "--data.unseen.loads", "[3]"],
        r"set --data.root",
    ),
}


FAILS_LATE = {"an adaptation that diverges", "a callback that cannot work"}
"""Noticed in the first validation, when rounds have been saved."""


@pytest.mark.parametrize("case", BAD)
def test_a_users_error_is_one_sentence(case: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = BAD[case]
    try:
        status = fml("fit", config, *arguments)
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    said = capsys.readouterr().err
    assert status in (1, 2)
    assert re.search(message, said), said
    assert said.startswith("fml: error: ")
    assert said.count("\n") == 1
    left = list((config.parent / "runs").glob("*/*"))
    assert not left or case in FAILS_LATE  # nothing half-made is left


def test_an_empty_data_root_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = REPOSITORY / "configs" / "cwru_unseen_load.yaml"
    assert run(["fit", "--config", str(config), "--data.root", str(tmp_path)]) == 1
    assert re.search(r"fml: error: CWRU: expected manifest.csv .* set --data.root", capsys.readouterr().err)


def test_personalize_names_the_machines_there_are(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fml("personalize", config)
    assert "machine is missing: set --machine" in capsys.readouterr().err
    assert fml("personalize", config, "--machine", "pump") == 1
    assert "no run of 'small'" in capsys.readouterr().err
    assert fml("fit", config, "--trainer.max_steps", "1") == 0
    capsys.readouterr()
    assert fml("personalize", config, "--machine", "pump") == 1
    assert "no machine 'pump'; unseen machines are plant3-machine1, plant3-machine2" in capsys.readouterr().err


def test_without_a_config_the_demo_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(["fit", "--print_config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr()
    assert "using the simulated fleet of configs/demo.yaml" in printed.err
    assert yaml.safe_load(printed.out)["trainer"]["max_steps"] == 40


def test_the_environment_sets_what_arguments_do_not(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FML_FIT__CONFIG", str(config))
    monkeypatch.setenv("FML_FIT__TRAINER__MIN_STEPS", "3")
    for arguments, expected in (([], 3), (["--trainer.min_steps", "2"], 2)):
        with pytest.raises(SystemExit):
            run(["fit", *arguments, "--print_config"])
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["trainer"]["min_steps"] == expected
        assert printed["model"]["local_steps"] == 2


def test_a_misspelt_environment_variable_is_named(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FML_FIT__TRAINER__MAX_STEP", "3")
    assert run(["fit", "--config", str(config)]) == 1
    assert "did you mean FML_FIT__TRAINER__MAX_STEPS?" in capsys.readouterr().err


def test_predictions_of_tokens_have_a_row_for_each() -> None:
    targets = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    outputs = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 0], [1, 1, 0]]]), 2).float()
    table = prediction_table([Prediction(("m",), targets, outputs, None)], ["a", "b"])
    assert table.select("window", "token", "label", "predicted").rows() == [
        (0, 0, "a", "a"),
        (0, 1, "b", "b"),
        (0, 2, "b", "a"),
        (1, 0, "b", "b"),
        (1, 1, "a", "b"),
        (1, 2, "a", "a"),
    ]


def test_predictions_tell_when_their_windows_began() -> None:
    """In order of time; null where a machine's data do not tell the time of day, or a window has no label."""
    outputs = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]])
    day = datetime(2026, 3, 1, 8, tzinfo=UTC)
    began = int(day.timestamp()) * 1_000_000 + torch.tensor([[2_000_000, 250_000, 0]])
    mask = torch.tensor([[True, True, False]])
    labels = torch.tensor([[0, -2, 0]])
    at_plant = Prediction(("pump",), labels, outputs, mask, "plant", began)
    on_bench = Prediction(
        ("rig",), torch.tensor([[1, 0, 1]]), outputs, None, "bench", torch.tensor([[0, 500, 250]])
    )
    unsaid = Prediction(("fan",), torch.tensor([[1, 0, 1]]), outputs)
    table = prediction_table([at_plant, on_bench, unsaid], ["a", "b"])
    assert table.schema["time"] == pl.Datetime("us", "UTC")
    assert table.columns == ["site", "machine", "window", "time", "seconds", "label", "predicted", "p_a", "p_b"]
    assert table.drop("p_a", "p_b").rows() == [
        ("plant", "pump", 0, day + timedelta(milliseconds=250), None, None, "b"),
        ("plant", "pump", 1, day + timedelta(seconds=2), None, "a", "a"),
        ("bench", "rig", 0, None, 0.0, "b", "a"),
        ("bench", "rig", 1, None, 0.00025, "b", "a"),
        ("bench", "rig", 2, None, 0.0005, "a", "b"),
        ("", "fan", 0, None, None, "b", "a"),
        ("", "fan", 1, None, None, "a", "b"),
        ("", "fan", 2, None, None, "b", "a"),
    ]
    assert shown_frame(table)["label"].to_list() == table["label"].to_list()
    assert "seconds" not in prediction_table([at_plant], ["a", "b"]).columns
    assert "time" not in prediction_table([on_bench], ["a", "b"]).columns
    assert prediction_table([unsaid], ["a", "b"]).columns[:4] == ["site", "machine", "window", "label"]


def test_the_times_of_tokens_and_of_many_classes_are_those_of_their_windows() -> None:
    targets, outputs = torch.tensor([[[0, 1], [1, -100]]]), torch.eye(2)[torch.tensor([[[0, 1], [1, 1]]])]
    table = prediction_table(
        [Prediction(("m",), targets, outputs, starts=torch.tensor([[7_000_000, 0]]))], ["a", "b"]
    )
    assert table.select("window", "token", "seconds", "label", "predicted").rows() == [
        (0, 0, 0.0, "b", "b"),
        (0, 1, 0.0, None, "b"),
        (1, 0, 7.0, "a", "a"),
        (1, 1, 7.0, "b", "b"),
    ]
    names, outputs = [f"k{k}" for k in range(30)], torch.eye(30)[torch.tensor([[4, 5]])]
    many = Prediction(("m",), torch.tensor([[-1, 5]]), outputs, starts=torch.tensor([[1, 0]]))
    rows = prediction_table([many], names).select("seconds", "label", "predicted", "p_1").rows()
    assert rows == [(0.0, "k5", "k5", 1.0), (1e-6, None, "k4", 1.0)]


def test_targets_that_are_not_known_are_null() -> None:
    lives = Prediction(("m",), torch.tensor([[30.0, math.nan]]), torch.tensor([[28.0, 12.0]]))
    scores = Prediction(("m",), torch.tensor([[1, -2]]), torch.tensor([[1.5, 0.25]]))
    assert prediction_table([lives], []).select("target", "predicted").rows() == [(30.0, 28.0), (None, 12.0)]
    assert prediction_table([scores], []).select("target", "predicted").rows() == [(1, 1.5), (None, 0.25)]


def test_classes_have_short_names(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--data", "SimulatedFleet", "--data.features", "TimeDomain", "--model.learner", "Reptile"]
    spools = ["--data", "SpoolFleet", "--data.spools", "{a: b}", "--data.classes", "[x, y]"]
    net = [
        "--model.learner.net",
        "MLP",
        "--model.learner.net.in_features",
        "3",
        "--model.learner.net.out_features",
        "2",
    ]
    for data in (names[:4], spools):
        with pytest.raises(SystemExit) as stopped:
            run(["fit", *data, *names[4:], *net, "--model.learner.objective", "Regression", "--print_config"])
        printed = capsys.readouterr()
        assert stopped.value.code == 0, printed.err
        learner = yaml.safe_load(printed.out)["model"]["learner"]
        assert learner["class_path"] == "fml_lightning.Reptile"
        assert learner["init_args"]["net"]["class_path"] == "fml_lightning.MLP"


CONSOLE = "import sys\nfrom fml_lightning.__main__ import main\nsys.exit(main())\n"


@pytest.mark.parametrize("starts", ["console script", "python -m"])
def test_modules_are_found_in_the_working_folder_but_come_last(starts: str, tmp_path: Path) -> None:
    """A user's own module is found; one that is called like a library's, or like ours, takes no one's place."""
    folder = tmp_path / "work"
    script = tmp_path / "bin" / "fml"
    for path, text in (
        (script, CONSOLE),
        (folder / "mynet.py", "from fml_lightning import MLP\n\nclass MyNet(MLP): ...\n"),
        *((folder / f"{name}.py", "raise SystemExit(9)\n") for name in ("types", "statistics", "yaml", "names")),
        *(
            (folder / name / "__init__.py", "raise SystemExit(9)\n")
            for name in ("datamodules", "torch", "commands")
        ),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    settings = json.loads(json.dumps(CONFIG))
    settings["model"]["learner"]["init_args"]["net"]["class_path"] = "mynet.MyNet"
    (folder / "small.yaml").write_text(yaml.safe_dump(settings))
    command = [str(script)] if starts == "console script" else ["-m", "fml_lightning"]
    done = subprocess.run(
        [sys.executable, *command, "fit", "--config", "small.yaml", "--print_config"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["model"]["learner"]["init_args"]["net"]["class_path"] == "mynet.MyNet"


def test_help_fits_two_screens_and_leads_to_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (
            ["--help"],
            ["--help_all", "--data.help SimulatedFleet", "FML_FIT__TRAINER__MAX_STEPS=3", "--allow_changes"],
        ),
        (["--help_all"], ["--trainer.limit_val_batches", "--model.patience"]),
        (["--data.help", "SimulatedFleet"], ["Samples per window", "Support windows per class"]),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(["fit", *arguments])
        assert stopped.value.code == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)
        if arguments == ["--help"]:
            assert len(printed.splitlines()) <= 80


def test_help_is_readable_and_starts_without_numba() -> None:
    """As a user starts it; numba, which lightning does not import, stays out of the start-up."""
    program = (
        "import sys; sys.argv = ['fml', 'fit', '--help']\n"
        "from fml_lightning.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'numba' not in sys.modules\n"
    )
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    for words in ("--model.local_steps", "optimizer steps each site takes in a round", "--data"):
        assert words in done.stdout


@pytest.mark.parametrize(
    "config", sorted((REPOSITORY / "configs").glob("cwru_*.yaml")), ids=lambda path: path.stem
)
def test_configs_run_on_real_data(config: Path, cwru_root: str, tmp_path: Path) -> None:
    arguments = f"fit --config {config} --data.root {cwru_root} --trainer.default_root_dir {tmp_path}"
    short = (
        "--trainer.max_steps 2 --model.local_steps 1 --trainer.enable_progress_bar false --data.episodes.repeats 2"
    )
    status = run([*arguments.split(), *short.split()])
    assert status == 0
    assert json.loads((tmp_path / config.stem / "1" / "fit.json").read_text())["test/accuracy_after"] > 0.2
