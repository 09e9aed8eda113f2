"""Sites as processes of their own give the simulation's bits, and their own stays with them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from federation_trial import Trial
from tls_tap import Tap

from fml_lightning.commands.demo_federation import LEARNER, DemoFederation
from fml_lightning.preprocessing import LogBandPowers

ROUNDS = 20
LEARNERS = {
    "MAML": LEARNER,
    "Ditto": "class_path: fml_lightning.Ditto\ninit_args:\n  net:\n    class_path: fml_lightning.MLP\n"
    "    init_args: {in_features: 128, out_features: 4}\n  adaptation: {lr: 0.3, steps: 3}\n",
    "FedBN": "class_path: fml_lightning.FedBN\ninit_args:\n  net:\n    class_path: federation_trial.Normed\n"
    "  adaptation: {lr: 0.3, steps: 3}\n",
}
MACHINE = "PRESSE-GEHEIM-7731"


def learns(trial: Trial, learner: str) -> None:
    """Have server and sites learn this."""
    for file in (trial.folder / name for name in ("federation.yaml", *(f"{site}.yaml" for site in trial.sites))):
        text = file.read_text()
        (found,) = re.findall(r"^( *)learner:\n", text, re.MULTILINE)
        deeper = found + "  "
        block = "".join(f"{deeper}{line}\n" for line in learner.splitlines())
        text = re.sub(
            rf"^{found}learner:\n(?:{deeper}.*\n)+", f"{found}learner:\n{block}", text, flags=re.MULTILINE
        )
        file.write_text(text)


def parameters(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(state, dict)
    return state


def personal(folder: Path) -> dict[str, bytes]:
    """What is personal to each site after its last round."""
    files = {file.parent.name: file for file in sorted(folder.rglob(f"{ROUNDS - 1}.pt"))}
    return {site: torch.load(file, weights_only=True) for site, file in files.items()}


@pytest.mark.parametrize("learner", LEARNERS)
def test_twenty_rounds_give_the_simulations_bits(kits: DemoFederation, tmp_path: Path, learner: str) -> None:
    with Trial(kits, tmp_path / "f") as trial:
        learns(trial, LEARNERS[learner])
        trial.up(*trial.sites)
        steps = ("--model.local_steps=2", "--trainer.check_val_every_n_epoch=10")
        fit = trial.fit(ROUNDS, *steps)
        if learner == "Ditto":  # fml fit is killed, and the server's host is lost: kit and runs come from a backup
            trial.wait_until(lambda: len(trial.rounds()) > 5, "some rounds", "fit")
            for process in (fit, trial.running["server"]):
                process.kill()
                process.wait()
            shutil.rmtree(trial.folder / "server")
            trial.server()
            fit = trial.fit(ROUNDS, *steps, "--ckpt_path=last")
        assert fit.wait(300) == 0, trial.log("fit")
        shutil.copytree(trial.folder / "runs/federation/1", tmp_path / "remote")
        simulated = (trial.folder / "federation.yaml").read_text()
        simulated = re.sub(r"  executor:\n(?:    .*\n)+", "", simulated)
        data = (trial.folder / "plant1.yaml").read_text()
        block = re.findall(r"^data:\n(?:  .*\n)+", data, re.MULTILINE)[0]
        simulated = re.sub(r"^data:\n(?:  .*\n)+", block, simulated, flags=re.MULTILINE)
        (trial.folder / "federation.yaml").write_text(simulated)
        assert trial.fit(ROUNDS, *steps, name="serial").wait(300) == 0, trial.log("serial")
        ours, theirs = parameters(trial.folder / "runs/federation/2"), parameters(tmp_path / "remote")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert table(trial.log("fit")) == table(trial.log("serial")) != []
        kept = personal(trial.folder / "sites")
        here = personal(trial.folder / "runs/federation/2/personal")
        assert set(kept) == set(here) == (set() if learner == "MAML" else set(trial.sites))
        for site, state in here.items():
            assert all(torch.equal(kept[site][name], state[name]) for name in state)
        assert not list((tmp_path / "remote").rglob("*.pt"))


def table(log: str) -> list[str]:
    """The lines of `fml fit` that tell how each machine does."""
    return [line for line in log.splitlines() if " -> " in line]


def test_the_server_never_has_what_is_the_sites_own(kits: DemoFederation, tmp_path: Path) -> None:
    with Trial(kits, tmp_path / "f") as trial:
        learns(trial, LEARNERS["Ditto"])
        secrets = planted(trial)
        tap = Tap(trial.folder / "kits/server", trial.folder / "kits/plant1", trial.port)
        trial.redirect("plant1", tap.port)
        with tap:
            trial.up(*trial.sites)
            trial.fit(1_000_000, "--trainer.check_val_every_n_epoch=5", "--model.local_steps=2")
            trial.wait_until(lambda: len(trial.rounds()) > 12, "rounds", "fit")
            state = sorted((trial.folder / "sites/plant1/state").rglob("*.pt"))[-1]
            own = torch.load(state, weights_only=True)
            secrets["personal"] = max(own.values(), key=torch.numel).flatten()[:6].numpy().tobytes()
            assert secrets["personal"] in state.read_bytes()
            held = {
                name: memory(pid)
                for name, pid in (
                    ("fml fit", trial.running["fit"].pid),
                    ("fml server", trial.running["server"].pid),
                    ("NVFlare's server", trial.nvflare("server")),
                )
            }
            site = memory(trial.running["plant1"].pid)
        held |= {"sent": bytes(tap.up), "received": bytes(tap.down)}
        for folder in ("server", "runs", "rounds", "kits/server"):
            for file in (trial.folder / folder).rglob("*"):
                if file.is_file() and not file.is_symlink():
                    held[str(file)] = file.read_bytes()
    update = [name for name, content in held.items() if b"0.0.weight" in content or b"net.1.weight" in content]
    assert {"sent", "received"} <= set(update)  # the tap reads what goes over the line
    assert secrets["machine"] in site  # and a dump has what a process holds
    assert secrets["features"] in site
    found = [(what, where) for what, secret in secrets.items() for where, text in held.items() if secret in text]
    assert found == []


def planted(trial: Trial) -> dict[str, bytes]:
    """Give plant1 a machine of its own, whose name and samples are searched for."""
    rng = np.random.default_rng(7)
    folder = trial.folder / "own" / "plant1" / MACHINE
    folder.mkdir(parents=True)
    samples = None
    for label in ("normal", "ball", "inner", "outer"):
        signal = rng.normal(size=40_960)
        samples = signal if samples is None else samples
        np.save(folder / f"{label}_1.npy", signal)
    assert samples is not None
    file = trial.folder / "plant1.yaml"
    data = (
        "data:\n  class_path: fml_lightning.datamodules.Files\n  init_args:\n"
        "    files: own/{site}/{machine}/{label}_*.npy\n    sample_rate: 12000\n"
        "    unit: g\n    classes: [normal, ball, inner, outer]\n    windowing: {length: 2048, hop: 2048}\n"
        "    episodes: {shots: 1, tasks: 4}\n"
    )
    text = re.sub(r"^data:\n(?:  .*\n)+", data, file.read_text(), flags=re.MULTILINE)
    text = text.replace("metrics: machines", "metrics: mean").replace("machines: names", "machines: aliases")
    file.write_text(text)
    return {
        "machine": MACHINE.encode(),
        "samples": samples[100:104].astype(np.float32).tobytes(),
        "samples in double": samples[100:104].tobytes(),
        "features": LogBandPowers()(samples[None, :2048].astype(np.float32), 12_000)[0, 10:14].tobytes(),
    }


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
