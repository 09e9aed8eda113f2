"""`fml watch` in a site's own folder: what it says of a machine that drifts works there, and so does auto."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import msgspec
import pytest
import yaml
from probes import until
from test_repersonalize_chain import BASELINE, CONFIG, DRIFT, FIRST, label, record, sent
from test_watch import RULES, score_all
from watched import SITE, TOPICS, in_time

from fml_lightning.__main__ import run_command
from fml_lightning.commands.learning import run
from fml_lightning.commands.model_maker import SITE as SITE_FILE
from fml_lightning.commands.model_maker import ModelMaker, remember_site
from fml_lightning.commands.release import release
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.datamodules import SimulatedFleet, SpoolFleet
from fml_lightning.errors import UserError
from fml_lightning.live.attempt import told
from fml_lightning.live.repersonalizer import Repersonalizer
from fml_lightning.live.rules import Rules
from fml_lightning.live.scoring import RegistryModels
from fml_lightning.live.watcher import Settings, Watcher
from fml_lightning.personal.registry import Registry
from fml_lightning.preprocessing import Windowing

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("prompt")]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a site where `a` drifts since its model was made; the tests run in another one."""
    home, elsewhere = tmp_path / "site home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    Path("own.yaml").write_text(CONFIG)
    Path("spool").mkdir()
    write_topics(Path("spool"), TOPICS)
    record(
        in_time(
            [label("t", "normal", 0), label("t", "outer", FIRST)],
            sent("t", 0, FIRST, 1),
            sent("t", FIRST, FIRST, 2, 0.1),
            [label("a", "normal", 0), *sent("a", 0, FIRST, 3)],
        )
    )
    assert run(["fit", "--config", "own.yaml", "--data.unseen", "[a]"]) == 0
    Path("server").mkdir()
    assert release(["runs/own/1"]) == 0
    config = yaml.safe_load(CONFIG)
    del config["data"]["init_args"]["unseen"]
    content = {"site": SITE, "learner": config["model"]["learner"], "data": config["data"]}
    Path("site.yaml").write_text(yaml.safe_dump(content))
    folder = home / "sites" / SITE
    (folder / "fetched").mkdir(parents=True)
    shutil.copy(next(Path("server/released").glob("*.ckpt")), folder / "fetched")
    assert run(["personalize", "--site", "site.yaml", "--machine", "a"]) == 0
    confirmed = [label("a", "normal", FIRST + BASELINE + 90)]
    record(
        in_time(sent("a", FIRST, BASELINE, 6) + sent("a", FIRST + BASELINE, DRIFT, 9, 0.1), confirmed),
    )
    monkeypatch.chdir(elsewhere)
    return folder


def test_what_a_watch_says_of_a_machine_that_drifts_works_at_a_site(
    plant: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = plant.parent.parent
    capsys.readouterr()
    watch = [str(plant), "--spools.plant", str(home / "spool"), "--drift.baseline", "180s", "--once"]
    assert run_command("watch", watch) == 0
    said = re.search(r"label it, and then: (cd .+?)  ", capsys.readouterr().out)
    assert said is not None
    move, command = said[1].split(" && ")
    assert shlex.split(move) == ["cd", str(home)]
    program, verb, *arguments = shlex.split(command)
    assert (program, verb, arguments[:4]) == (
        "fml",
        "personalize",
        ["--site", "site.yaml", "--machine", "plant/a"],
    )
    monkeypatch.chdir(home)
    assert run([verb, *arguments]) == 0
    assert [each.name for each in Registry(plant / "machines").versions(SITE, "a")] == ["v1", "v2"]
    assert "then: fml personalize --site site.yaml --machine" not in said[0]
    assert ModelMaker.of(plant).command == "fml personalize --site site.yaml"


def test_auto_makes_a_better_model_at_a_site(plant: Path) -> None:
    registry, maker = Registry(plant / "machines"), ModelMaker.of(plant)
    (plant / "watch").mkdir()
    repersonalizer = Repersonalizer(plant / "watch", registry, maker.process(), directory=maker.directory)
    rules = msgspec.structs.replace(RULES, repersonalize="auto")
    spools = {SITE: plant.parent.parent / "spool"}
    watcher = Watcher(plant / "watch", spools, RegistryModels(registry), Settings(rules), None, repersonalizer)

    def said() -> list[str]:
        watcher._next_look = watcher._next_list = 0.0
        score_all(watcher)
        found = watcher.state.get(SITE, "a")
        assert found is not None
        return [each.reason for each in found.alarm.changes if each.what == "personalized"]

    until(said)
    (reason,) = said()
    assert reason.startswith("v2 watches now: it is better: accuracy 1.000 (")


def test_the_machines_of_a_site_alone_are_known_once_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spool").mkdir()
    write_topics(Path("spool"), TOPICS)
    record([*sent("t", 0, 5, 1), *sent("a", 0, 5, 2)])
    fleet = SpoolFleet({SITE: "spool"}, classes=("normal", "outer"), windowing=Windowing(1024, 1024))
    assert fleet.site(SITE).machine_names == ["a", "t"]


# What cannot be -------------------------------------------------------------------------------------------


def test_a_folder_of_nobody_knows_what_is_told_no_command(tmp_path: Path) -> None:
    maker = ModelMaker.of(tmp_path)
    assert maker.command == ""
    with pytest.raises(UserError, match=r"there is neither config\.yaml nor site\.json in .*repersonalize: ask"):
        maker.process()
    said = told(None, Rules(command=maker.command), SITE, "a", 0)
    assert said == "if this is its new normal, label it, and make a new model with fml personalize"


def test_a_run_whose_data_class_fails_to_import_is_asked_for_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_data.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.yaml").write_text("data: {class_path: broken_data.Mine}")
    assert ModelMaker.of(tmp_path / "1").command == f"fml personalize --config {tmp_path}/1/config.yaml"


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_site_whose_configuration_has_moved_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").touch()
    remember_site(tmp_path / "home", "site.yaml", object())
    assert ModelMaker.of(tmp_path / "home").command == "fml personalize --site site.yaml"
    if is_gone:
        (tmp_path / "site.yaml").unlink()
    else:
        (tmp_path / "home" / SITE_FILE).write_text("{")
    maker = ModelMaker.of(tmp_path / "home")
    assert maker.command == ""
    with pytest.raises(UserError, match="there is no such file" if is_gone else "cannot be read .*run fml fetch"):
        maker.process()


def test_a_site_of_data_that_know_no_labels_times_is_asked_without_since_and_refuses_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").touch()
    remember_site(tmp_path / "home", "site.yaml", SimulatedFleet(sites=1, unseen_sites=0))
    maker = ModelMaker.of(tmp_path / "home")
    assert not maker.takes_since
    rules = Rules(command=maker.command, takes_since=maker.takes_since)
    assert told(None, rules, SITE, "a", 0).endswith(" then: fml personalize --site site.yaml --machine plant/a")
    with pytest.raises(UserError, match=r"the data of site\.yaml are no SpoolFleet"):
        maker.process()
