"""Sites over hosts that train on spools while these fill: the simulation's bits, and a run that nobody halts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from federation_hosts import FIRST_USER, Hosts
from flare import PATIENCE

from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.commands.learning import run
from fml_lightning.connectors.decoding.topics import Topics
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.datamodules import SimulatedFleet, SpoolFleet
from fml_lightning.errors import UserError

pytestmark = pytest.mark.long

LEARNER = {
    "class_path": "fml_lightning.MAML",
    "init_args": {
        "net": {
            "class_path": "fml_lightning.MLP",
            "init_args": {"in_features": 32, "out_features": 4, "hidden": [16]},
        },
        "inner_loop": {"lr": 0.3, "steps": 2},
    },
}
EPISODES = {"shots": 1, "queries": 3, "tasks": 3, "repeats": 2}
STAGES = (6, 12, 20)
STEPS = ("--model.local_steps=2", "--trainer.check_val_every_n_epoch=3")
LAST = "--ckpt_path=last"
TEST = ("test", "--config", "federation.yaml", LAST, "--trainer.enable_progress_bar=false")
CYCLE = 2.0
"""Seconds in which a machine has been in all four states, for half a second each: 11 windows of every class."""


class Writer:
    """A site's recorder, a process of the site's user: appends what machines send to the site's spool."""

    def __init__(self, hosts: Hosts, site: str) -> None:
        self.site = site
        self.process = subprocess.Popen(
            [*hosts.launcher(site), sys.executable, "-m", "spool_writer", "spool", site],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=hosts.home(site),
            env=hosts.environment,
            text=True,
        )
        self.seconds = {1: 0.0, 2: 0.0}
        """How much of its life each machine has sent."""

    def __call__(self, seconds: float, machine: int = 1) -> None:
        """Record so many seconds more of a machine's life; they are in the spool when this returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.seconds[machine] += seconds
        self.process.stdin.write(f"{self.site}-machine{machine} {self.seconds[machine]}\n")
        self.process.stdin.flush()
        assert int(self.process.stdout.readline()) > 0


@pytest.fixture
def hosts(kits: DemoFederation) -> Iterator[Hosts]:
    """A server, and three sites with a spool each."""
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="fml-") as folder, Hosts(kits, Path(folder) / "f") as made:
        Path(folder).chmod(0o711)
        names = {"sites": made.sites, "classes": list(SimulatedFleet.classes), "episodes": EPISODES}
        remote = {"class_path": "fml_lightning.datamodules.RemoteFleet", "init_args": names}
        executor = {
            "class_path": "fml_lightning.NVFlareExecutor",
            "init_args": {"folder": "server", "deadline": PATIENCE},
        }
        made.write("server", "federation.yaml", federation(remote, executor=executor))
        for site in made.sites:
            consent = {"rounds": 1_000_000_000, "machines": "names"}
            settings = {"site": site, "learner": LEARNER, "data": spools({site: "spool"}), "consent": consent}
            made.write(site, f"{site}.yaml", settings)
        yield made


@pytest.fixture
def writers(hosts: Hosts) -> Iterator[dict[str, Writer]]:
    """A recorder at each site, which has recorded nothing yet."""
    made = {site: Writer(hosts, site) for site in hosts.sites}
    yield made
    for writer in made.values():
        writer.process.kill()
        writer.process.communicate()


def spools(folders: dict[str, str]) -> dict[str, Any]:
    settings = {
        "spools": folders,
        "classes": list(SimulatedFleet.classes),
        "windowing": {"length": 512, "hop": 512},
        "features": {"class_path": "fml_lightning.preprocessing.LogBandPowers", "init_args": {"bands": 32}},
        "episodes": EPISODES,
    }
    return {"class_path": "fml_lightning.datamodules.SpoolFleet", "init_args": settings}


def federation(data: dict[str, Any], **model: Any) -> dict[str, Any]:
    return {
        "seed_everything": 0,
        "model": {"learner": LEARNER, "quorum": 2, "max_wait": PATIENCE, **model},
        "data": data,
    }


def state(folder: Path) -> dict[str, Any]:
    (runs,) = (folder / "runs/federation").iterdir()
    checkpoint: dict[str, Any] = torch.load(runs / "checkpoints/last.ckpt", weights_only=True)
    return checkpoint


def measured(folder: Path, verb: str) -> dict[str, Any]:
    """What a run has measured last, but for how long it took."""
    (runs,) = (folder / "runs/federation").iterdir()
    report = json.loads((runs / f"{verb}.json").read_text())
    return {name: value for name, value in report.items() if not name.endswith("seconds")}


def asked_in_vain(hosts: Hosts, site: str) -> int:
    """How often a site has answered that it has too few windows yet."""
    sent = hosts.home(site) / "sites" / site / "sent.jsonl"
    lines = [json.loads(line) for line in sent.read_text().splitlines()] if sent.exists() else []
    return sum(line["verb"] == "fit" and "expected a machine with" in line["what"] for line in lines)


def test_spools_that_fill_while_sites_train_on_them(
    hosts: Hosts, writers: dict[str, Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for site in hosts.sites:
        hosts.site(site)
    hosts.server()
    writers["plant1"](CYCLE)
    for site in ("plant2", "plant3"):
        writers[site](CYCLE / 4)  # of one class alone
    monkeypatch.chdir(tmp_path)
    every = spools({site: str(hosts.home(site) / "spool") for site in hosts.sites})
    Path("federation.yaml").write_text(json.dumps(federation(every)))
    hosts.wait_until(lambda: all(hosts.is_connected(site) for site in hosts.sites), "the sites to be connected")

    unseen = ['--data.sites=["plant1", "plant2"]', '--data.unseen=["plant3"]']
    remote: list[list[str]] = []
    for before, rounds in zip((0, *STAGES), STAGES, strict=False):
        resumed = [LAST] if before else []
        remote += [hosts.fitting(rounds, *STEPS, *resumed), ["wait", f"{rounds}"]]
    fit = hosts.commands("fit", *remote, [*TEST, *unseen])

    # The first round needs two sites: plant2 is waited for. Rounds 0 to 5 do without plant3.
    hosts.wait_until(lambda: asked_in_vain(hosts, "plant2") > 1, "plant2 to be waited for", "fit")
    writers["plant2"](CYCLE)
    for stage, rounds in enumerate(STAGES):
        hosts.wait_until(lambda rounds=rounds: (hosts.home("fit") / f"{rounds}.waits").exists(), "a stage", "fit")
        assert run(hosts.fitting(rounds, *STEPS, *([LAST] if stage else []))) == 0
        assert_same(state(tmp_path), state(hosts.home("fit")), rounds)
        assert measured(tmp_path, "fit") == measured(hosts.home("fit"), "fit")
        assert len(measured(tmp_path, "fit")["machines"]) == (2 if stage == 0 else 3)
        for writer in writers.values():
            writer(CYCLE if writer.site == "plant3" else CYCLE / 4)
        (hosts.home("fit") / f"{rounds}").touch()
    hosts.wait_until(lambda: fit.poll() is not None, "fml fit to end")
    assert fit.returncode == 0, hosts.log("fit")
    assert run([*TEST, '--data.unseen=["plant3"]']) == 0
    assert measured(tmp_path, "test") == measured(hosts.home("fit"), "test")
    assert [sites for sites, _ in hosts.rounds()] == [2] * 6 + [3] * 14

    # Nothing is halted any more: recorders write, machines that were never heard of among it, while rounds go on.
    fit = hosts.fit(40, *STEPS, LAST)
    hosts.wait_until(lambda: record(writers) and fit.poll() is not None, "fml fit to end")
    assert fit.returncode == 0, hosts.log("fit")
    told = measured(hosts.home("fit"), "fit")
    assert len(told["machines"]) == 6
    numbers = [value for value in told.values() if isinstance(value, float)]
    assert numbers
    assert all(map(math.isfinite, numbers))
    assert told["val/accuracy_after"] > max(0.4, told["val/accuracy_before"])  # of four classes
    for site in hosts.sites:
        assert hosts.end(site) == 0, hosts.log(site)
        assert hosts.opened(site) == {site}


def record(writers: dict[str, Writer]) -> bool:
    """Record a little more of every machine."""
    for writer in writers.values():
        for machine in writer.seconds:
            writer(0.1, machine)
    return True


def test_a_spool_that_this_user_may_not_read_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    write_topics(tmp_path / "spool", Topics())
    fleet = SpoolFleet({"plant1": str(tmp_path / "spool")}, ["normal", "outer"])
    (tmp_path / "spool").chmod(0o000)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(FIRST_USER)  # root may read everything
        with pytest.raises(
            UserError, match=r"^plant1: this process's user may not read .*; run it as the user who"
        ):
            fleet.site("plant1").training_machines()
    finally:
        os.seteuid(user)
        (tmp_path / "spool").chmod(0o700)


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], rounds: int) -> None:
    """See that two runs have the same parameters after so many rounds, bit for bit."""
    assert ours["global_step"] == theirs["global_step"] == rounds
    ours, theirs = ours["state_dict"], theirs["state_dict"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
