"""`fml server`: it tells who is connected, locks sites out, hands out runs, and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flare import Processes, kit_folder, wait_for
from probes import LONG
from test_parent import env

from fml_lightning import MAML, MLP, Federation
from fml_lightning.commands import server
from fml_lightning.commands.demo_federation import DemoFederation, free_port
from fml_lightning.commands.release import release
from fml_lightning.errors import UserError
from fml_lightning.executors.agreement import agreement
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.parent import NVFlareParent
from fml_lightning.executors.nvflare.server_hub import ServerHub
from fml_lightning.executors.release import Release


def fml(*arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fml_lightning", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=where,
        timeout=LONG,
    )


def metric(port: int, name: str) -> float:
    """A value that Prometheus reads."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG) as page:
        lines = page.read().decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


@pytest.mark.long
def test_a_site_is_seen_locked_out_and_let_in_again(kits: DemoFederation, tmp_path: Path) -> None:
    kit, port = kit_folder(kits, "server", tmp_path), free_port()
    plant, folder = Kit(kit_folder(kits, "plant1", tmp_path)), tmp_path / "p"
    with Processes(tmp_path) as processes, NVFlareParent(plant, folder, env(folder, "SITE")) as site:
        processes.fml("server", "server", "--kit", str(kit), "--metrics_port", str(port))
        processes.wait("server", "1 connected: plant1 since ")
        assert metric(port, "fml_server_connected_sites") == 1
        assert metric(port, "fml_server_up") == 1
        assert metric(port, "fml_server_certificate_seconds") == pytest.approx(
            plant.days_left() * 86_400, rel=0.01
        )

        second = fml("server", "--kit", str(kit), where=tmp_path)
        assert second.returncode == 1
        assert "another fml server runs in this folder" in second.stderr

        done = fml("server", "disable", "plant1", where=tmp_path)
        assert done.stdout == "plant1 is locked out, now and after restarts\n"
        wait_for(lambda: metric(port, "fml_server_connected_sites") == 0)
        wait_for(lambda: "disabled" in str(site.status().problem))
        assert fml("server", "enable", "plant1", where=tmp_path).returncode == 0
        wait_for(lambda: metric(port, "fml_server_connected_sites") == 1)
        wait_for(lambda: site.status().connected)

        assert processes.end("server", signal.SIGTERM) == 0
        # Without a server, NVFlare's own file is written, which the next server reads.
        done = fml("server", "disable", "plant1", "plant7", where=tmp_path)
        assert "plant7 is locked out, now and after restarts (it was not connected; check its name)" in done.stdout
        assert json.loads((kit / "disabled_clients.json").read_text()) == {
            "disabled_clients": ["plant1", "plant7"]
        }
        processes.fml("server", "server", "--kit", str(kit))
        wait_for(lambda: processes.log("server").count("serving at") >= 2)
        wait_for(lambda: "disabled" in str(site.status().problem))
        assert fml("server", "enable", "plant1", where=tmp_path).returncode == 0
        wait_for(lambda: site.status().connected)
        assert processes.end("server", signal.SIGTERM) == 0


def test_a_sites_kit_is_no_servers(kits: DemoFederation, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the kit of the site 'plant1'"):
        server.run(["--kit", str(kits.kit("plant1")), "--folder", str(tmp_path / "s")])


def test_help_says_what_each_verb_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        server.run(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"fml server {verb}: " in said for verb in ("disable NAME", "enable NAME", "release RUN"))


def test_a_folder_where_no_server_ran_locks_nobody_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no fml server has run"):
        server.run(["disable", "plant1", "--folder", str(tmp_path)])


def stopped_server(folder: Path) -> Path:
    """The kit of a server that has run in a folder."""
    (kit := folder / "kit-of-server").mkdir(parents=True)
    (folder / "kit").symlink_to(kit)
    return kit


@pytest.mark.parametrize("damaged", ['{"disabled_clients": ["pla', '{"disabled_clients": "plant7"}', "[]", "\xff"])
def test_a_damaged_list_is_said_at_once_and_is_not_taken_for_a_running_server(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "COMING_UP", -1.0)
    file = stopped_server(tmp_path) / "disabled_clients.json"
    file.write_bytes(damaged.encode("latin-1"))
    with pytest.raises(UserError, match=r"disabled_clients\.json: expected a list .* nobody was locked out"):
        server.run(["disable", "plant1", "--folder", str(tmp_path)])
    assert file.read_bytes() == damaged.encode("latin-1")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files and folders in the order in which they were made durable."""
    names: list[str] = []

    def noted(descriptor: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", noted)
    return names


def test_a_lock_out_without_a_server_outlives_a_power_cut(tmp_path: Path, synced: list[str]) -> None:
    kit = stopped_server(tmp_path)
    server.run(["disable", "plant1", "--folder", str(tmp_path)])
    assert json.loads((kit / "disabled_clients.json").read_text()) == {"disabled_clients": ["plant1"]}
    *_, file, folder = synced  # the key of the folder's sockets may come first
    assert file.startswith(".disabled_clients.json.")
    assert folder == kit.name


def test_a_lock_out_by_nvflare_outlives_a_power_cut(tmp_path: Path, synced: list[str]) -> None:
    """NVFlare writes its file without a sync."""
    file = tmp_path / "kit" / "disabled_clients.json"
    file.parent.mkdir()

    def disable(names: list[str]) -> dict[str, Any]:
        file.write_text(json.dumps({"disabled_clients": names}))
        return {"clients": [{"client_name": name, "state": "disabled"} for name in names]}

    hub = ServerHub()
    manager = SimpleNamespace(disabled_clients_file=str(file))
    hub._engine = SimpleNamespace(server=SimpleNamespace(client_manager=manager))
    assert hub._let_in(["plant1"], disable, "disabled").reason == ""
    assert synced == [file.name, "kit"]


def checkpoint(run: str = "ab12", rounds: int = 7) -> tuple[MAML, dict[str, object]]:
    """What `fml fit` saves of a federation, as far as a release takes of it."""
    learner = MAML(MLP(4, 2, hidden=(3,)), personal=["4.*"])
    saved = {
        "state_dict": Federation(learner).state_dict(),
        "global_step": rounds,
        "federation_run": run,
        "federation_seed": 5,
        "federation_learner": agreement(learner),
        "federation_stateful_sites": ["plant-secret"],
    }
    return learner, saved


def test_a_release_holds_what_is_shared_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner, saved = checkpoint()
    assert learner.personal
    for name in learner.personal:
        saved["state_dict"][f"learner.{name}"].fill_(1234.5)  # type: ignore[index]
    path = tmp_path / "runs/x/1/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(saved, path)
    folder = tmp_path / "server"
    folder.mkdir()
    for given in (str(path), str(tmp_path / "runs/x/1"), "ab12"):
        assert release([given, "--folder", str(folder), "--runs", str(tmp_path / "runs")]) == 0
        message = (folder / "released/ab12.ckpt").read_bytes()
        (folder / "released/ab12.ckpt").unlink()
        read = Release.read(message)
        assert (read.run, read.rounds, read.seed) == ("ab12", 7, 5)
        assert set(read.params) == set(learner.shared)
        assert all(torch.equal(read.params[name], p) for name, p in learner.shared.items())
        assert b"plant-secret" not in message
        assert torch.tensor([1234.5]).numpy().tobytes() not in message
    with pytest.raises(UserError, match="no id of a run below"):
        release(["cd34", "--folder", str(folder), "--runs", str(tmp_path / "runs")])


def test_a_checkpoint_that_does_not_say_its_learner_is_refused() -> None:
    _, saved = checkpoint()
    del saved["federation_learner"]
    with pytest.raises(UserError, match="run one more round"):
        Release.of(saved)


def test_a_release_goes_into_the_same_learner_alone() -> None:
    learner, saved = checkpoint()
    read = Release.read(Release.of(saved).pack())
    other = MAML(MLP(4, 2, hidden=(3,)), personal=["4.*"])
    read.put_into(other)
    assert all(torch.equal(p, learner.shared[name]) for name, p in other.shared.items())
    wider = MAML(MLP(4, 2, hidden=(5,)), personal=["4.*"])
    with pytest.raises(UserError, match=r"run ab12 was trained with another learner: learner\.net"):
        read.put_into(wider)
    name = next(iter(read.params))
    read.params[name][0] = torch.nan
    with pytest.raises(UserError, match="not whole"):
        read.put_into(other)
