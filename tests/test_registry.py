"""The registry: versions of models, the current one, and that a kill at any moment leaves a whole one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from fml_lightning import MLP, Classification, PersonalModel
from fml_lightning.errors import UserError
from fml_lightning.folder_lock import FolderLock
from fml_lightning.personal.card import Card, Current, Verdict, Windows
from fml_lightning.personal.registry import CURRENT, HISTORY, Registry, Version


def card(site: str = "plant1", machine: str = "pump", verdict: Verdict = "ship") -> Card:
    """A card of a model that nobody has judged."""
    return Card(
        site=site,
        machine=machine,
        before=0.5,
        after=0.9,
        metric="accuracy",
        shots=5,
        support=Windows(count=20),
        query=Windows(count=40),
        steps=3,
        learner="fml_lightning.MAML",
        adaptation="InnerLoop()",
        seconds=0.1,
        made="2026-11-27T00:00:00+00:00",
        verdict=verdict,
    )


def model(value: float = 0.0) -> PersonalModel:
    """A small model of which every number is `value`."""
    net = MLP(4, 2, hidden=())
    for p in net.parameters():
        torch.nn.init.constant_(p, value)
    return PersonalModel(net, Classification(), torch.zeros(4), None, ("normal", "worn"))


def names(versions: list[Version]) -> list[str]:
    return [each.name for each in versions]


def test_versions_count_up_and_the_newest_is_current(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert registry.current("plant1", "pump") is None
    for value in (1.0, 2.0):
        registry.add(model(value), card())
    current = registry.current("plant1", "pump")
    assert current is not None
    assert current.name == "v2"
    assert current.folder == tmp_path / "plant1" / "pump" / "v2"
    assert names(registry.versions("plant1", "pump")) == ["v1", "v2"]
    assert (current.load().net.state_dict()["1.weight"] == 2).all()
    assert (tmp_path / "plant1" / "pump" / CURRENT).read_text() == "v2\n"
    assert [(each.what, each.version) for each in registry.history("plant1", "pump")] == [
        ("added", "v1"),
        ("current", "v1"),
        ("added", "v2"),
        ("current", "v2"),
    ]


@pytest.mark.parametrize(
    ("verdicts", "current"),
    [
        (["refused"], None),
        (["ship", "refused"], "v1"),
        (["doubtful"], "v1"),
        (["ship", "doubtful"], "v1"),
        (["doubtful", "doubtful"], "v2"),
        (["doubtful", "ship", "refused"], "v2"),
    ],
)
def test_a_refused_model_never_becomes_current_by_itself(
    tmp_path: Path, verdicts: list[Verdict], current: str | None
) -> None:
    registry = Registry(tmp_path)
    for verdict in verdicts:
        registry.add(model(), card(verdict=verdict))
    found = registry.current("plant1", "pump")
    assert (found and found.name) == current
    assert len(registry.versions("plant1", "pump")) == len(verdicts)


def test_rollback_takes_the_one_before_or_the_one_that_is_named(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for verdict in ("ship", "refused", "ship"):
        registry.add(model(), card(verdict=verdict))  # type: ignore[arg-type]
    assert registry.rollback("plant1", "pump").name == "v1"  # v2 is refused
    with pytest.raises(UserError, match="no earlier version that is not refused"):
        registry.rollback("plant1", "pump")
    assert registry.rollback("plant1", "pump", "v2").name == "v2"  # the user says so
    with pytest.raises(UserError, match="--to: no version v9 of plant1/pump; there are v1, v2, v3"):
        registry.rollback("plant1", "pump", "v9")
    with pytest.raises(UserError, match="there is no model of plant1/fan"):
        registry.rollback("plant1", "fan")
    assert [each.what for each in registry.history("plant1", "pump")][-2:] == ["rolled back", "rolled back"]


def test_machines_are_found_by_their_names_whatever_these_are(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    known = [("plant1", "pump"), ("plant2", "pump"), ("plant2", "../../x"), ("a/b", "泵 3"), ("..", "x" * 300)]
    for site, machine in known:
        registry.add(model(), card(site, machine))
    assert registry.machines() == sorted(known)
    assert registry.find("泵 3") == ("a/b", "泵 3")
    assert registry.find("plant2/pump") == ("plant2", "pump")
    with pytest.raises(UserError, match="machine pump: 2 sites have one; say which: plant1/pump, plant2/pump"):
        registry.find("pump")
    with pytest.raises(UserError, match="expected one that has a model in"):
        registry.find("fan")
    assert {path.parts[len(tmp_path.parts)] for path in tmp_path.rglob("*")} <= {
        "plant1",
        "plant2",
        "a%2Fb",
        "%2E%2E",
    }


def test_no_two_models_of_a_machine_have_one_name_also_where_it_was_held_out_of_its_site(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    sites = ["plant1-unseen", "plant1", "plant1-unseen", "plant1", "plant2"]
    assert [registry.add(model(), card(site)).name for site in sites] == ["v1", "v2", "v3", "v4", "v1"]


def test_a_copy_that_somebody_has_made_of_a_machines_folder_is_no_machine(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    added = registry.add(model(), card())
    shutil.copytree(added.folder.parent, tmp_path / "plant1" / "pump (copy)")
    shutil.copytree(tmp_path / "plant1", tmp_path / "plant1.old")
    assert registry.machines() == [("plant1", "pump")]
    assert registry.find("pump") == ("plant1", "pump")


def test_a_model_that_is_not_its_cards_is_refused(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first, second = registry.add(model(1.0), card()), registry.add(model(2.0), card())
    whole = first.model.read_bytes()
    first.model.write_bytes(second.model.read_bytes())
    with pytest.raises(UserError, match="it is not the model that its card is of"):
        first.load()
    first.model.write_bytes(whole)
    second.model.unlink()
    with pytest.raises(UserError, match="no such model; make it again with fml personalize"):
        second.load()
    for text in (b'{"site": 3', b'{"site": "\xff"}'):
        (second.folder / "card.json").write_bytes(text)
        with pytest.raises(UserError, match="it is no card"):
            _ = second.card
    assert registry.machines() == [("plant1", "pump")]  # by the card of v1
    (tmp_path / "plant1" / "pump" / CURRENT).write_text("../../etc")
    with pytest.raises(UserError, match="expected the name of a version that is there"):
        registry.current("plant1", "pump")
    assert registry.rollback("plant1", "pump", "v1").name == "v1"


def test_a_current_version_that_somebody_has_deleted_stops_nobody(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for _ in range(2):
        registry.add(model(), card())
    shutil.rmtree(tmp_path / "plant1/pump/v2")
    with pytest.raises(UserError, match="expected the name of a version that is there, got v2"):
        registry.current("plant1", "pump")
    assert registry.rollback("plant1", "pump").name == "v1"
    shutil.rmtree(tmp_path / "plant1/pump/v1")
    assert registry.add(model(), card(verdict="doubtful")).name == "v3"
    assert registry.current("plant1", "pump") is not None


@pytest.mark.parametrize("has_history", [True, False])
def test_a_refused_model_does_not_take_the_name_of_a_deleted_one(tmp_path: Path, has_history: bool) -> None:
    registry = Registry(tmp_path)
    for _ in range(2):
        registry.add(model(), card())
    shutil.rmtree(tmp_path / "plant1/pump/v2")  # `current` still says v2
    if not has_history:
        (tmp_path / "plant1/pump/history.jsonl").unlink()
    refused = registry.add(model(), card(verdict="refused"))
    assert refused.name == "v3"
    with pytest.raises(UserError, match="expected the name of a version that is there, got v2"):
        registry.current("plant1", "pump")


def test_a_model_of_a_network_that_cannot_be_described_is_loaded_with_it(tmp_path: Path) -> None:
    class Local(torch.nn.Linear):
        pass

    added = Registry(tmp_path).add(
        PersonalModel(Local(4, 2), Classification(), torch.zeros(4), None, ("normal", "worn")), card()
    )
    with pytest.raises(UserError, match="net"):
        added.load()
    assert added.load(Local(4, 2)).classes == ("normal", "worn")


def test_a_history_that_a_crash_has_cut_short_goes_on(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.add(model(), card())
    path = tmp_path / "plant1" / "pump" / HISTORY
    path.write_bytes(path.read_bytes()[:-9] + b'\n{"what":"\xff"}')
    registry.add(model(), card())
    assert [(each.what, each.version) for each in registry.history("plant1", "pump")] == [
        ("added", "v1"),
        ("added", "v2"),
        ("current", "v2"),
    ]


ADDING = """
import os, random, signal, sys, time
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[2])
import torch
from test_registry import card, model
from fml_lightning.personal.registry import Registry
torch.set_num_threads(1)
registry, rng, made = Registry(Path(sys.argv[1])), random.Random(0), model()
registry.add(made, card())
for _ in range(5):
    before = len(registry.versions("plant1", "pump"))
    child = os.fork()
    while child == 0:
        registry.add(made, card())
    while len(registry.versions("plant1", "pump")) == before:
        time.sleep(0.001)
    time.sleep(rng.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    registry.current("plant1", "pump").load()
"""


def test_a_kill_at_any_moment_leaves_a_whole_current_one(tmp_path: Path) -> None:
    """Each process that adds is killed at another moment; the next goes on."""
    subprocess.run([sys.executable, "-c", ADDING, str(tmp_path), str(Path(__file__).parent)], check=True)
    registry = Registry(tmp_path)
    versions = registry.versions("plant1", "pump")
    assert len(versions) >= 6
    for version in versions:
        version.load()
    registry.add(model(), card())
    assert not list(tmp_path.rglob("*.partial"))


def test_a_card_is_the_same_as_json() -> None:
    told = card()
    assert msgspec.convert(told.to_json(), Card) == told
    assert "interval" not in told.to_json()
    nameless = msgspec.structs.replace(told, site="", adaptation="")
    assert msgspec.convert(nameless.to_json(), Card) == nameless


GOOD = {"interval": (0.85, 0.95)}


@pytest.mark.parametrize(
    ("known", "becomes", "why"),
    [
        (
            {"current": Current(version="v1", value=0.84)},
            True,
            "it is better: accuracy 0.900 (0.850 to 0.950), and v1",
        ),
        (
            {"current": Current(version="v1", value=0.85)},
            False,
            "it is not clearly better: accuracy 0.900 (0.850 to",
        ),
        ({"current": Current(version="v1", value=0.99)}, False, "v1 has 0.990 on the same 40 windows"),
        ({"current": Current(version="v1", value=0.1), "verdict": "doubtful"}, False, "it is doubtful"),
        ({"current": Current(version="v1", value=0.1), "verdict": "refused"}, False, "it is refused"),
        (
            {"current": Current(version="v1", problem="other rate")},
            False,
            "cannot be compared with v1: other rate",
        ),
        (
            {"current": Current(version="v1", value=0.1), "interval": None},
            False,
            "nobody knows between which numbers",
        ),
        (
            {"current": Current(version="v0", value=0.1)},
            False,
            "v1 has become the current model since it was judged",
        ),
        ({}, False, "v1 has become the current model since it was judged"),
        (
            {"current": Current(version="v1", value=0.96), "metric": "loss", "higher_is_better": False},
            True,
            "it is better: loss 0.900 (0.850 to 0.950), and v1 has 0.960 on the same 40 windows",
        ),
        (
            {"current": Current(version="v1", value=0.95), "metric": "loss", "higher_is_better": False},
            False,
            "it is not clearly better",
        ),
    ],
)
def test_a_model_that_must_be_better_becomes_current_only_beyond_doubt(
    tmp_path: Path, known: dict[str, Any], becomes: bool, why: str
) -> None:
    registry = Registry(tmp_path)
    registry.add(model(), card())
    added = registry.add(model(), msgspec.structs.replace(card(), **{**GOOD, **known}), only_if_better=True)
    current = registry.current("plant1", "pump")
    assert current is not None
    assert current.name == ("v2" if becomes else "v1")
    assert why in registry.why(added)
    last = registry.history("plant1", "pump")[-1]
    assert (last.what, last.version, why in last.why) == ("current" if becomes else "added", "v2", True)


def test_where_no_model_watches_one_to_be_shipped_need_not_be_better(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.add(model(), card(verdict="doubtful"), only_if_better=True)
    assert registry.current("plant1", "pump") is None
    added = registry.add(model(), card(), only_if_better=True)
    current = registry.current("plant1", "pump")
    assert current is not None
    assert (current.name, registry.why(added)) == (
        "v2",
        "it is to be shipped, and no model has watched the machine",
    )


def test_the_history_says_why_a_version_is_current_or_is_not(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for verdict in ("ship", "doubtful", "refused"):
        registry.add(model(), card(verdict=verdict))  # type: ignore[arg-type]
    assert [registry.why(each) for each in registry.versions("plant1", "pump")] == [
        "it is to be shipped, and no model has watched the machine",
        "it is doubtful, and v1 is not",
        "it is refused",
    ]


@pytest.mark.parametrize("content", [b"v9\n", b"", b"\xff\xfe\x00", b"../v1"])
def test_a_broken_current_is_as_none_to_whoever_goes_on_without_and_the_history_says_so(
    tmp_path: Path, content: bytes
) -> None:
    registry = Registry(tmp_path)
    for _ in range(2):
        registry.add(model(), card())
    current = tmp_path / "plant1/pump" / CURRENT
    current.write_bytes(content)
    with pytest.raises(UserError, match="expected the name of a version that is there"):
        registry.current("plant1", "pump")
    assert registry.known_current("plant1", "pump") is None
    refused = registry.add(model(), card(verdict="refused"))
    assert registry.why(refused) == "it is refused"
    assert current.read_bytes() == content
    for only_if_better, verdict, why in [
        (False, "doubtful", "it is doubtful, and the current model cannot be read"),
        (False, "ship", "it is to be shipped, and the current model cannot be read"),
        (True, "ship", "it is to be shipped, and the current model cannot be read"),
    ]:
        current.write_bytes(content)
        added = registry.add(model(), card(verdict=verdict), only_if_better=only_if_better)  # type: ignore[arg-type]
        assert registry.known_current("plant1", "pump") == added
        assert registry.why(added) == why
    current.write_bytes(content)
    assert registry.rollback("plant1", "pump").name == added.name


def test_a_doubtful_model_is_told_what_watched_before(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    added = [registry.add(model(), card(verdict="doubtful")) for _ in range(2)]
    assert [registry.why(each) for each in added] == [
        "it is doubtful, and no model has watched the machine",
        "it is doubtful, and v1 is doubtful",
    ]


def test_a_rollback_goes_past_versions_whose_cards_cannot_be_read(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for _ in range(4):
        registry.add(model(), card())
    for name in ("v3", "v4"):
        (tmp_path / "plant1/pump" / name / "card.json").write_text("{")
    assert registry.rollback("plant1", "pump").name == "v2"


def test_a_rollback_takes_no_version_whose_model_is_not_whole(tmp_path: Path) -> None:
    """The machine would be left without a model that can watch it, and the one that can be forgotten."""
    registry = Registry(tmp_path)
    first, cut, deleted, last = (registry.add(model(), card()) for _ in range(4))
    cut.model.write_bytes(cut.model.read_bytes()[:-1])
    deleted.model.unlink()
    for broken, why in ((cut, "not the model that its card is of"), (deleted, "no such model")):
        with pytest.raises(UserError, match=why):
            registry.rollback("plant1", "pump", broken.name)
        assert registry.current("plant1", "pump") == last
    assert registry.rollback("plant1", "pump") == first


def test_a_current_model_that_is_not_whole_gives_way_to_a_doubtful_one(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.add(model(), card()).model.write_bytes(b"cut")
    added = registry.add(model(), card(verdict="doubtful"))
    assert registry.current("plant1", "pump") == added
    assert registry.why(added) == "it is doubtful, and the current model cannot be read"


def test_what_cannot_be_read_of_one_machine_stops_no_other(tmp_path: Path) -> None:
    """A folder in the place of a file stands for a disk that fails, or a file of somebody else."""
    registry = Registry(tmp_path)
    for machine in ("fan", "pump"):
        broken = registry.add(model(), card("plant1", machine))
    (broken.folder / "card.json").unlink()
    (broken.folder / "card.json").mkdir()
    assert registry.machines() == [("plant1", "fan")]
    assert registry.unreadable() == [broken.folder.parent]
    with pytest.raises(UserError, match=r"card\.json: it cannot be read: Is a directory"):
        broken.load()
    (tmp_path / "plant1" / "pump" / CURRENT).unlink()
    (tmp_path / "plant1" / "pump" / CURRENT).mkdir()
    with pytest.raises(UserError, match="expected the name of a version that is there, got a folder"):
        registry.current("plant1", "pump")
    assert registry.known_current("plant1", "pump") is None


def test_models_that_are_made_at_one_moment_are_kept_one_after_another(tmp_path: Path) -> None:
    """Of a user and of a watch, say; who holds the lock on and on is named."""
    registry, made = Registry(tmp_path), model()
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda _: registry.add(made, card()).name, range(12)))
    assert sorted(added, key=lambda name: int(name[1:])) == [f"v{k}" for k in range(1, 13)]
    lock = FolderLock(tmp_path / "plant1" / "pump", ("somebody has it", "wait"), patience=0.05)
    with lock, pytest.raises(UserError, match=f"somebody has it .process {os.getpid()}.; wait"):
        FolderLock(tmp_path / "plant1" / "pump", lock.taken, patience=0.05).acquire()
