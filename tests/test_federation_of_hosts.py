"""Sites as processes of their own give the simulation's bits, and their own stays with them."""

from __future__ import annotations

import io
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federation_hosts import APART, Hosts
from flare import PATIENCE
from numpy.typing import NDArray
from tls_tap import Tap

from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.commands.learning import run
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.names import file_name
from fml_lightning.preprocessing import LogBandPowers

pytestmark = pytest.mark.long

ROUNDS = 20
MLP = {"class_path": "fml_lightning.MLP", "init_args": {"in_features": 32, "out_features": 4, "hidden": [16]}}
NORMED = {"class_path": "federation_trial.Normed"}
LEARNERS = {
    "MAML": {"net": MLP, "inner_loop": {"lr": 0.3, "steps": 2}},
    "FedBN": {"net": NORMED, "adaptation": {"lr": 0.3, "steps": 2}},
    "Ditto": {"net": MLP, "adaptation": {"lr": 0.3, "steps": 2}},
}
EPISODES = {"shots": 1, "queries": 3, "tasks": 3, "repeats": 2}
OWN_FILES = "data/{site}/{machine}/{label}.npy"
STEPS = ("--model.local_steps=2", "--trainer.check_val_every_n_epoch=10", "--checkpoints.every=3")
TEST = ("test", "--config", "federation.yaml", "--ckpt_path=last", "--trainer.enable_progress_bar=false")
MACHINE = "PRESSE-GEHEIM-7731"
SECRET = np.random.default_rng(7).normal(size=(len(SimulatedFleet.classes), 12_000))


@pytest.fixture(scope="module")
def hosts(kits: DemoFederation) -> Iterator[Hosts]:
    """A server, and three sites with recordings in files; plant1 has some that are searched for elsewhere."""
    fleet = SimulatedFleet(sites=3, unseen_sites=0, machines=2, seconds=1.0)
    fleet.setup("fit")
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="fml-") as folder, Hosts(kits, Path(folder) / "f") as made:
        Path(folder).chmod(0o711)
        for site in fleet.sites.values():
            for recording in site.recordings:
                write(made, site.name, recording.machine, fleet.classes[recording.label], recording.load()[0])
        for label, values in zip(fleet.classes, SECRET, strict=True):
            write(made, "plant1", MACHINE, label, values)
        made.server()
        yield made


@pytest.fixture(scope="module")
def tap(hosts: Hosts) -> Iterator[Tap]:
    """Reads what goes over the line between plant1 and the server."""
    with Tap(hosts.home("server") / "kits/server", hosts.home("plant1") / "kits/plant1", hosts.port) as made:
        hosts.redirect("plant1", made.port)
        yield made


def write(hosts: Hosts, site: str, machine: str, label: str, values: NDArray[Any]) -> None:
    place = hosts.home(site) / "data" / site / machine
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / f"{label}.npy", values)


def learner(name: str) -> dict[str, Any]:
    return {"class_path": f"fml_lightning.{name}", "init_args": LEARNERS[name]}


def files(pattern: str) -> dict[str, Any]:
    settings = {
        "files": pattern,
        "sample_rate": 12_000,
        "unit": "g",
        "classes": list(SimulatedFleet.classes),
        "windowing": {"length": 512, "hop": 512},
        "features": {"class_path": "fml_lightning.preprocessing.LogBandPowers", "init_args": {"bands": 32}},
        "episodes": EPISODES,
    }
    return {"class_path": "fml_lightning.datamodules.Files", "init_args": settings}


def federation(name: str, data: dict[str, Any], **model: Any) -> dict[str, Any]:
    return {"seed_everything": 0, "model": {"learner": learner(name), **model}, "data": data}


def learn(hosts: Hosts, name: str) -> None:
    """Have server and sites learn this, unless they do."""
    if name == hosts.learner:
        return
    for site in set(hosts.sites) & set(hosts.running):
        assert hosts.end(site) == 0, hosts.log(site)
    names = {"sites": hosts.sites, "classes": list(SimulatedFleet.classes), "episodes": EPISODES}
    remote = {"class_path": "fml_lightning.datamodules.RemoteFleet", "init_args": names}
    executor = {"class_path": "fml_lightning.NVFlareExecutor", "init_args": {"folder": "server"}}
    waiting = {"quorum": 3, "max_wait": PATIENCE, "executor": executor}  # for sites that are not connected yet
    hosts.write(hosts.server_host, "federation.yaml", federation(name, remote, **waiting))
    for site in hosts.sites:
        leaves = ("mean", "aliases") if site == "plant1" else ("machines", "names")
        consent = {"rounds": 1_000_000_000, "metrics": leaves[0], "machines": leaves[1]}
        settings = {"site": site, "learner": learner(name), "data": files(OWN_FILES), "consent": consent}
        hosts.write(site, f"{site}.yaml", settings)
        hosts.site(site)
    hosts.learner = name


def unseen(*sites: str, of: Sequence[str]) -> list[str]:
    """Arguments by which sites of a RemoteFleet are not trained on, but tested."""
    trained = [site for site in of if site not in sites]
    return [f"--data.sites={json.dumps(trained)}", f"--data.unseen={json.dumps(sites)}"]


@pytest.mark.skipif(not APART, reason="needs root, to be several users")
def test_no_host_can_open_what_is_another_hosts(hosts: Hosts) -> None:
    """A file that is planted at each host, and a key that is there, as every other host's user finds them."""
    for host in hosts.users:
        (hosts.folder / host / "planted").write_bytes(b"secret")
        hosts.give(host)
    for host in hosts.users:
        for other in hosts.users:
            key = next((hosts.folder / other / "kits").rglob("*.key"))
            found = hosts.reads(host, hosts.folder / other / "planted", key)
            assert found == ["read" if host == other else "refused"] * 2, (host, other)


@pytest.mark.parametrize("name", LEARNERS)
def test_twenty_rounds_give_the_simulations_bits(
    hosts: Hosts,
    tap: Tap,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learn(hosts, name)
    resumed = () if name == "MAML" else (interrupted(hosts, is_host_lost=name == "Ditto"),)
    fitting = hosts.fitting(ROUNDS, *STEPS, *resumed)
    fit = hosts.commands("fit", fitting, [*TEST, *unseen("plant3", of=hosts.sites)])
    hosts.wait_until(lambda: fit.poll() is not None, "fml fit to end")
    assert fit.returncode == 0, hosts.log("fit")
    theirs = newest_run(hosts.home("fit"))
    if APART:
        pids = {site: (hosts.running[site].pid, hosts.nvflare(site)) for site in hosts.sites}
        pids["server"] = (hosts.running["server"].pid, hosts.nvflare("server"))
        for process, own in pids.items():
            assert {hosts.user_of(pid) for pid in own} == {hosts.users[hosts.host(process)]}
    for site in hosts.sites:
        assert hosts.opened(site) == {site}

    monkeypatch.chdir(tmp_path)
    everything = files(f"{hosts.folder}/plant*/{OWN_FILES}")
    Path("federation.yaml").write_text(json.dumps(federation(name, everything)))
    capsys.readouterr()
    assert run(hosts.fitting(ROUNDS, *STEPS)) == 0
    assert run([*TEST, '--data.unseen=["plant3"]']) == 0
    ours = tmp_path / "runs/federation/1"
    checkpoints = [torch.load(each / "checkpoints/last.ckpt", weights_only=True) for each in (ours, theirs)]
    assert_same(*(checkpoint["state_dict"] for checkpoint in checkpoints))
    assert all(checkpoint["global_step"] == ROUNDS for checkpoint in checkpoints)
    for verb, machines in (("fit", 4), ("test", 2)):
        measured = [measures(json.loads((each / f"{verb}.json").read_text())) for each in (ours, theirs)]
        assert measured[0] == measured[1]
        assert len(measured[0]["machines"]) == machines
    for site in hosts.sites:
        state = Path("personal") / site / f"{ROUNDS - 1}.pt"
        kept = hosts.home(site) / f"sites/{site}/state" / file_name(checkpoints[1]["federation_run"]) / state
        assert kept.exists() == (ours / state).exists() == (name != "MAML")
        if kept.exists():
            assert_same(*(torch.load(each, weights_only=True) for each in (ours / state, kept)))
    assert not list(theirs.rglob("*.pt"))


def interrupted(hosts: Hosts, *, is_host_lost: bool) -> str:
    """Kill `fml fit` after some rounds, and give the argument by which it goes on.

    Where its host is lost for ever, another one is made of backups: of the kit as it was made, and of the run as
    it was some rounds ago.
    """
    before = len(hosts.rounds())
    fault = hosts.home("plant2") / "plant2.fault"
    fault.write_text("hold 12")  # lest the run be over
    hosts.fit(ROUNDS, *STEPS)
    hosts.wait_until(lambda: len(hosts.rounds()) > before + 5, "some rounds", "fit")
    lost = hosts.home("fit")
    run_folder = newest_run(lost).relative_to(lost)
    checkpoint = run_folder / "checkpoints/round-6.ckpt"
    hosts.wait_until(lambda: (lost / checkpoint).exists(), "a checkpoint", "fit")
    for file in (run_folder / "config.yaml", checkpoint, Path("federation.yaml")):
        (hosts.backup / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lost / file, hosts.backup / file)
    hosts.wait_until(lambda: len(hosts.rounds()) > before + 8, "more rounds", "fit")
    ended = ("fit", "server") if is_host_lost else ("fit",)
    for process in ended:
        hosts.running[process].kill()
        hosts.running[process].wait()
    fault.unlink()
    if not is_host_lost:
        return "--ckpt_path=last"
    hosts.replace_server()
    hosts.server()
    return f"--ckpt_path={checkpoint}"


def newest_run(home: Path) -> Path:
    return max((home / "runs/federation").iterdir(), key=lambda each: int(each.name))


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """See that tensors are the same, bit for bit."""
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def measures(report: dict[str, Any]) -> dict[str, Any]:
    """What neither tells how long anything took, nor of plant1's machines, which it keeps to itself."""
    told = {name: value for name, value in report.items() if not name.endswith("seconds")}
    return told | {"machines": [each for each in report["machines"] if each["site"] != "plant1"]}


@pytest.fixture(scope="module")
def endless(hosts: Hosts, tap: Tap) -> Hosts:
    """All sites learn Ditto, for ever."""
    learn(hosts, "Ditto")
    hosts.fit(1_000_000, "--trainer.check_val_every_n_epoch=5", "--model.quorum=1", *STEPS[:1], name="endless")
    hosts.wait_for_round((3, 0).__eq__, "a round of all sites", "endless")
    return hosts


def test_the_server_never_has_what_is_the_sites_own(endless: Hosts, tap: Tap) -> None:
    hosts = endless
    hosts.wait_until(lambda: len(hosts.rounds("endless")) > 12, "rounds", "endless")
    _, state = newest_state(hosts, "plant1")
    own = torch.load(io.BytesIO(state), weights_only=True)
    samples = SECRET[0]
    secrets = {
        "personal": max(own.values(), key=torch.numel).flatten()[:6].numpy().tobytes(),
        "machine": MACHINE.encode(),
        "samples": samples[100:104].astype(np.float32).tobytes(),
        "samples in double": samples[100:104].tobytes(),
        "features": LogBandPowers(32)(samples[None, :512].astype(np.float32), 12_000)[0, 10:14].tobytes(),
    }
    assert secrets["personal"] in state
    processes = {
        "fml fit": hosts.running["endless"].pid,
        "fml server": hosts.running["server"].pid,
        "NVFlare's server": hosts.nvflare("server"),
    }
    held = {name: memory(pid) for name, pid in processes.items()}
    site = memory(hosts.running["plant1"].pid)
    held |= {"sent": bytes(tap.up), "received": bytes(tap.down)}
    for file in hosts.home("server").rglob("*"):
        if file.is_file() and not file.is_symlink():
            with suppress(FileNotFoundError):  # a checkpoint that is replaced this moment
                held[str(file)] = file.read_bytes()
    update = [name for name, content in held.items() if b"0.0.weight" in content or b"net.1.weight" in content]
    assert {"sent", "received"} <= set(update)  # the tap reads what goes over the line
    assert secrets["machine"] in site  # and a dump has what a process holds
    assert secrets["features"] in site
    found = [(what, where) for what, secret in secrets.items() for where, text in held.items() if secret in text]
    assert found == []


def newest_state(hosts: Hosts, site: str) -> tuple[Path, bytes]:
    """The file with what is personal to a site, of its last round, and its content."""
    while True:
        with suppress(FileNotFoundError):  # a site that goes on removes its older ones
            states = (hosts.home(site) / "sites" / site / "state").rglob("[0-9]*.pt")
            newest = max(states, key=lambda file: (file.stat().st_mtime_ns, int(file.stem)))
            return newest, newest.read_bytes()


def test_a_site_killed_in_the_middle_of_its_memory_goes_on_with_the_state_before(endless: Hosts) -> None:
    (endless.home("plant2") / "plant2.fault").write_text("halfway")
    endless.wait_until(lambda: endless.running["plant2"].poll() is not None, "plant2 to die")
    assert endless.running["plant2"].returncode == -signal.SIGKILL
    whole, content = newest_state(endless, "plant2")
    (half,) = whole.parent.glob("*.tmp")
    assert half.name == f"{int(whole.stem) + 1}.pt.tmp"
    assert 0.3 < half.stat().st_size / len(content) < 0.7
    assert torch.load(io.BytesIO(content), weights_only=True)
    assert (whole.parent / "rounds.txt").read_text().split()[-1] == whole.stem
    endless.wait_for_round((2, 1).__eq__, "a round of the others", "endless")
    endless.site("plant2")
    endless.wait_for_round((3, 0).__eq__, "a round of all sites", "endless")
    assert int(newest_state(endless, "plant2")[0].stem) > int(whole.stem) + 1
    assert not half.exists()
    assert "personal state" not in endless.log("endless")


def memory(pid: int) -> bytes:
    """All that a process holds in its memory and may be read."""
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as content:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                begin, end = (int(each, 16) for each in span.split("-"))
                content.seek(begin)
                try:
                    parts.append(content.read(end - begin))
                except OSError:  # not every mapping can be read
                    continue
    return b"".join(parts)
