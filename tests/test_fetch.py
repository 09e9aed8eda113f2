"""A site fetches what the server released, and personalizes and predicts with its own data."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest
import torch
from flare import kit_folder, wait_for
from test_parent import env
from test_server_command import checkpoint

from fml_lightning.commands import fetch
from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.commands.learning import run
from fml_lightning.commands.model_maker import ModelMaker
from fml_lightning.commands.release import release
from fml_lightning.commands.site_config import open_site
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.local_link import HUB_SOCKET
from fml_lightning.executors.nvflare.parent import NVFlareParent
from fml_lightning.executors.release import Release
from fml_lightning.personal.registry import Registry

pytestmark = pytest.mark.long

LEARNER = """
  class_path: fml_lightning.Ditto
  init_args:
    net: {class_path: fml_lightning.MLP, init_args: {in_features: 128, out_features: 4}}
"""
DATA = """
  class_path: fml_lightning.datamodules.SimulatedFleet
  init_args: {sites: 2, unseen_sites: 1, episodes: {shots: 1, tasks: 2}}
"""
FIT = f"""
seed_everything: 3
model:
  local_steps: 2
  learner: {LEARNER.replace(chr(10), chr(10) + "  ")}
data: {DATA}
trainer: {{max_steps: 3, enable_progress_bar: false}}
"""


def site_yaml(folder: Path, name: str = "plant1", learner: str = LEARNER) -> Path:
    """A site's configuration."""
    file = folder / f"{name}.yaml"
    file.write_text(
        f"site: {name}\nseed_everything: 3\nlearner: {learner}\ndata: {DATA}\nfolder: {folder / 'sites' / name}\n"
    )
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `fml fit` has simulated a federation, whose run is released and fetched."""
    folder = tmp_path_factory.mktemp("fetch")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("fit.yaml").write_text(FIT)
        assert run(["fit", "--config", "fit.yaml"]) == 0
        Path("server").mkdir()
        assert release(["runs/fit/1"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def site(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of plant1, in whose folder lie what it has fetched and what it keeps of the run."""
    monkeypatch.chdir(trained)
    shutil.rmtree("sites", ignore_errors=True)
    file = site_yaml(trained)
    released = next(Path("server/released").glob("*.ckpt"))
    fetched = Path("sites/plant1/fetched")
    fetched.mkdir(parents=True)
    shutil.copy(released, fetched)
    shutil.copytree("runs/fit/1/personal", f"sites/plant1/state/{released.stem}/personal")
    return file


def test_personal_models_at_a_site_are_those_of_the_simulation(site: Path) -> None:
    names = machines(site)
    assert run(["personalize", "--config", "fit.yaml", "--machine", f"plant1/{names[0]}"]) == 0
    assert run(["personalize", "--site", str(site), "--machine", names[0]]) == 0
    assert run(["personalize", "--site", str(site), "--machine", "all"]) == 0
    ours, theirs = (Path(folder) / "machines" for folder in ("sites/plant1", "runs/fit/1"))
    assert {name for _, name in Registry(ours).machines()} == set(names)
    versions = [Registry(folder).versions("plant1", names[0])[0] for folder in (ours, theirs)]
    made, simulated = (version.load() for version in versions)
    assert made.classes == simulated.classes
    of_made = made.state_dict()
    assert all(torch.equal(of_made[name], value) for name, value in simulated.state_dict().items())
    cards = [version.card.to_json() for version in versions]
    for card in cards:
        for name in ("seconds", "made", "checkpoint", "sha256"):
            del card[name]
    assert cards[0] == cards[1]


def test_what_a_site_keeps_of_its_own_matters(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = machines(site)[0]
    assert run(["personalize", "--site", str(site), "--machine", name]) == 0
    registry = Registry(Path("sites/plant1/machines"))
    kept = registry.versions("plant1", name)[0].load().state_dict()
    assert "has not trained" not in capsys.readouterr().err
    shutil.rmtree("sites/plant1/state")
    assert run(["personalize", "--site", str(site), "--machine", name]) == 0
    assert "plant1 has not trained in run" in capsys.readouterr().err
    bare = registry.versions("plant1", name)[1].load().state_dict()
    assert any(not torch.equal(kept[each], bare[each]) for each in kept)


@pytest.mark.parametrize(
    ("kept", "rounds", "taken"), [([7, 8], range(9), 7), ([7, 8], [7, 8], 7), ([0, 8], range(9), 0)]
)
def test_a_site_that_has_trained_on_takes_what_it_keeps_nearest_to_the_release(
    kept: list[int], rounds: Iterable[int], taken: int, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run was released after 3 rounds, and the site keeps the states of later ones; or it came later."""
    name = machines(site)[0]
    assert run(["personalize", "--site", str(site), "--machine", name]) == 0
    registry = Registry(Path("sites/plant1/machines"))
    (folder,) = Path("sites/plant1/state").glob("*/personal/plant1")
    state = torch.load(folder / "2.pt", weights_only=True)
    for path in folder.glob("*.pt"):
        path.unlink()
    for round_ in kept:
        scale = 1.0 if round_ == taken else 2.0
        torch.save({each: scale * value for each, value in state.items()}, folder / f"{round_}.pt")
    (folder / "rounds.txt").write_text("".join(f"{round_}\n" for round_ in rounds))
    capsys.readouterr()
    assert run(["personalize", "--site", str(site), "--machine", name]) == 0
    said = capsys.readouterr().err
    assert (
        f"released after 3 rounds, of which plant1 no longer keeps what is personal: that after {taken + 1}"
        in said
    )
    assert "(fml fetch)" in said
    first, second = (version.load().state_dict() for version in registry.versions("plant1", name))
    assert all(torch.equal(value, second[each]) for each, value in first.items())
    assert run(["predict", "--site", str(site)]) == 0
    assert "no longer keeps" in capsys.readouterr().err


def test_a_site_predicts_its_own_machines(site: Path) -> None:
    assert run(["predict", "--site", str(site)]) == 0
    frame = pl.read_parquet("sites/plant1/predict.parquet")
    assert set(frame["machine"]) == set(machines(site))
    assert set(frame["site"]) == {"plant1"}


def test_an_unknown_machine_and_another_learner_are_named(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["personalize", "--site", str(site), "--machine", "nobody"]) == 1
    assert "machine nobody: expected one at plant1, there are " in capsys.readouterr().err
    other = site_yaml(site.parent, learner=LEARNER.replace("out_features: 4", "out_features: 4, hidden: [9]"))
    assert run(["predict", "--site", str(other)]) == 1
    assert "was trained with another learner" in capsys.readouterr().err
    site_yaml(site.parent)
    shutil.rmtree("sites/plant1/fetched")
    assert run(["predict", "--site", str(site)]) == 1
    assert "nothing was fetched yet" in capsys.readouterr().err
    assert run(["predict", "--site", str(site), "--ckpt_path", "runs/fit/1/checkpoints/last.ckpt"]) == 1
    assert "is not what fml fetch writes" in capsys.readouterr().err


def test_what_was_released_comes_to_the_site(
    kits: DemoFederation,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = site_yaml(tmp_path)
    server, plant = (Kit(kit_folder(kits, name, tmp_path)) for name in ("server", "plant1"))
    s, p = tmp_path / "server-folder", tmp_path / "sites/plant1"
    p.mkdir(mode=0o700, parents=True)
    with pytest.raises(UserError, match="fml site does not run there"):
        fetch.run(["--config", str(file)])
    with NVFlareParent(server, s, env(s, "SERVER")), NVFlareParent(plant, p, env(p, "SITE")) as site:
        wait_for(lambda: site.status().connected and (p / HUB_SOCKET).exists())
        with pytest.raises(UserError, match="the server has released no run"):
            fetch.run(["--config", str(file)])
        older = s / "released/ab12.ckpt"
        older.parent.mkdir()
        older.write_bytes(Release.of(checkpoint()[1]).pack())
        os.utime(older, (time.time() - 60, time.time() - 60))
        newer = Path(shutil.copy(next((trained / "server/released").glob("*.ckpt")), older.parent))
        assert fetch.run(["--config", str(file)]) == 0
        assert (p / "fetched" / newer.name).read_bytes() == newer.read_bytes()
        told = capsys.readouterr()
        assert f"fetched run {newer.stem} after 3 rounds" in told.out
        assert ModelMaker.of(p).command == f"fml personalize --site {file}"
        assert told.err == ""
        assert fetch.run(["--config", str(file), "--run", "ab12"]) == 0  # of another learner
        assert "it does not fit the learner of" in capsys.readouterr().err
        assert fetch.newest(p).stem == "ab12"
        with pytest.raises(UserError, match=r"no run cd34; it has released .*ab12"):
            fetch.run(["--config", str(file), "--run", "cd34"])


def machines(site: Path) -> list[str]:
    """The machines at a site."""
    return list(open_site(site).data.machine_names)
