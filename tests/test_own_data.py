"""docs/own_data.md: its example is trained on, tested and personalized; its class reads the same files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fml_lightning.commands.learning import run
from fml_lightning.datamodules import Files
from fml_lightning.preprocessing import LogBandPowers, Windowing

REPOSITORY = Path(__file__).parent.parent
PAGE = (REPOSITORY / "docs" / "own_data.md").read_text()
EXAMPLE, FLEET = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(CONFIG,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    exec(EXAMPLE, {})
    return tmp_path


def test_the_config_that_ships_is_the_one_of_the_page() -> None:
    assert (REPOSITORY / "configs" / "files.yaml").read_text() == CONFIG


def test_a_folder_of_three_axis_bursts_trains_tests_and_personalizes_from_yaml_alone(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = example / "files.yaml"
    config.write_text(CONFIG)

    def fml(verb: str, *arguments: str) -> Any:
        options = ["--trainer.default_root_dir", "runs", "--trainer.enable_progress_bar", "false", *arguments]
        assert run([verb, "--config", str(config), *options]) == 0
        return json.loads((example / "runs" / "files" / "1" / f"{verb}.json").read_text())

    fml("fit", "--trainer.max_steps", "4", "--trainer.check_val_every_n_epoch", "4")
    measured = fml("test")
    assert {machine["machine"] for machine in measured["machines"]} == {"m1", "m2"}
    assert measured["test/accuracy_after"] > 0.9
    card = fml("personalize", "--ckpt_path", "last", "--machine", "m2")
    assert (card["machine"], card["site"]) == ("m2", "plant3")
    capsys.readouterr()


def test_a_machine_with_too_few_windows_keeps_no_other_one_from_its_model(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of the others has one, and the reason is told in a sentence."""
    for path in (example / "data" / "plant3" / "m1").glob("*_[2-9].csv"):
        path.unlink()
    config = example / "files.yaml"
    config.write_text(CONFIG)
    options = [
        "--config",
        str(config),
        "--trainer.default_root_dir",
        "runs",
        "--trainer.enable_progress_bar",
        "false",
    ]
    assert run(["fit", *options, "--trainer.max_steps", "1"]) == 0
    capsys.readouterr()
    assert run(["personalize", *options, "--data.episodes.shots", "6", "--machine", "all"]) == 1
    said = capsys.readouterr()
    assert re.fullmatch(
        "fml: error: 1 of 2 machines have got no new model; plant3/m1: expected at least 6 early windows.*\n",
        said.err,
    )
    folder = example / "runs" / "files" / "1"
    assert [path.name for path in (folder / "machines" / "plant3").iterdir()] == ["m2"]
    told = json.loads((folder / "personalize.json").read_text())
    assert [each["machine"] for each in told["machines"]] == ["m2"]
    assert run(["personalize", *options, "--data.episodes.shots", "6", "--machine", "m1"]) == 1
    assert capsys.readouterr().err.startswith("fml: error: m1: expected at least 6 early windows")
    assert run(["personalize", *options, "--data.episodes.shots", "600", "--machine", "all"]) == 1
    assert capsys.readouterr().err.startswith("fml: error: 2 of 2 machines have got no new model; plant3/m")
    assert len(list((folder / "machines" / "plant3" / "m2").glob("v*"))) == 1


def test_a_fleet_of_ones_own_reads_what_files_reads(example: Path) -> None:
    names: dict[str, Any] = {}
    exec(FLEET, names)
    own = names["Presses"]("data")
    init = yaml.safe_load(CONFIG)["data"]["init_args"]
    files = Files(
        **{name: value for name, value in init.items() if name not in ("windowing", "features")},
        windowing=Windowing(256, 256),
        features=LogBandPowers(bands=32),
    )
    for fleet in (own, files):
        fleet.setup("fit")
    assert list(own.sites) == list(files.sites) == ["plant1", "plant2"]
    for one, other in zip(own.unseen["plant3"].machines, files.unseen["plant3"].machines, strict=True):
        assert one.early.x.shape == (2 * 5 * 5, 96)
        for label in (0, 1):
            name = own.classes[label]
            rows = other.early.label == files.classes.index(name)
            np.testing.assert_allclose(one.early.x[one.early.label == label], other.early.x[rows], atol=1e-4)


def test_bursts_of_the_class_follow_one_another_by_number(example: Path) -> None:
    """Burst 10 of each state is a copy of burst 9, its last: late, not the second."""
    for path in sorted((example / "data").glob("*/*/*_9.csv")):
        path.with_name(path.name.replace("_9", "_10")).write_bytes(path.read_bytes())
    names: dict[str, Any] = {}
    exec(FLEET, names)
    site = names["Presses"]("data").site("plant1")
    own = [recording for recording in site.recordings if (recording.machine, recording.label) == ("m1", 0)]
    assert len(own) == 11
    np.testing.assert_array_equal(own[9].load(), own[10].load())


def test_the_class_of_the_page_has_about_twenty_lines() -> None:
    lines = FLEET[FLEET.index("class Presses") :].strip().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 22


def test_the_errors_that_the_page_explains_are_those_that_are_raised() -> None:
    sources = [
        *(REPOSITORY / "datamodules").rglob("*.py"),
        *(REPOSITORY / "fml_lightning").rglob("preprocess*.py"),
    ]
    source = "\n".join(path.read_text() for path in sources)
    table = PAGE.split("## What errors mean")[1].split("## In Python")[0]
    told = [
        cell for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for cell in re.findall(r"`(.*?)`", row)
    ]
    assert len(told) > 15
    assert [words for words in told if words not in source] == []
