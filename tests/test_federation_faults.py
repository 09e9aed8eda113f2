"""What happens to a federation of real processes when one of them, or a line between them, is hurt.

One `fml fit` runs through all of it: the tests of this file share the federation, and each leaves it whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_trial import Trial
from flare import PATIENCE
from tcp_proxy import Proxy

from fml_lightning.commands.demo_federation import DemoFederation

pytestmark = pytest.mark.long

DEADLINE = 6
WHOLE, ONE_LESS = (3, 0), (2, 1)


@pytest.fixture(scope="module")
def running(kits: DemoFederation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Trial, Proxy]]:
    """A federation of plant1 and plant2 that trains; plant3 is to come, over a line that can be cut."""
    with Trial(kits, tmp_path_factory.mktemp("faults") / "f") as trial, Proxy(trial.port) as line:
        trial.redirect("plant3", line.port)
        trial.up("plant1", "plant2")
        trial.fit(
            1_000_000,
            f"--model.executor.deadline={DEADLINE}",
            f"--model.executor.max_wait={PATIENCE}",
            "--model.patience=1000000",  # a busy machine may miss the deadline, several times in a row
            "--model.local_steps=1",
            "--trainer.check_val_every_n_epoch=1000000",
        )
        trial.wait_for_round(ONE_LESS.__eq__, "a round of two sites", "fit")
        yield trial, line


def whole_again(trial: Trial) -> None:
    trial.wait_for_round(WHOLE.__eq__, "a round of all sites", "fit")


def test_a_late_joiner_takes_part(running: tuple[Trial, Proxy]) -> None:
    trial, _ = running
    assert "plant3 sat round 0 out: it is not connected" in trial.log("fit")
    trial.site("plant3")
    whole_again(trial)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "expected finite numbers, got NaN or infinity"),
        ("shape", "expected a plain float32 tensor of shape"),
        ("garbage", "its answer cannot be read"),
        ("again", "expected the stamp that it was asked with, got another"),
        ("other", "expected the round that it was asked with, got another"),
    ],
)
def test_a_wrong_answer_costs_its_site_the_round(running: tuple[Trial, Proxy], fault: str, said: str) -> None:
    trial, _ = running
    (trial.folder / "plant2.fault").write_text(fault)
    trial.wait_for_round(ONE_LESS.__eq__, "a round without plant2", "fit")
    trial.wait_until(lambda: said in trial.log("fit"), said, "fit")
    (trial.folder / "plant2.fault").unlink()
    whole_again(trial)


def test_a_slow_site_fails_at_the_deadline_and_works_off_no_old_rounds(running: tuple[Trial, Proxy]) -> None:
    trial, _ = running
    (trial.folder / "plant2.fault").write_text(f"slow {1.5 * DEADLINE}")
    trial.wait_for_round(ONE_LESS.__eq__, "a round without plant2", "fit")
    (trial.folder / "plant2.fault").unlink()
    whole_again(trial)


def test_a_site_killed_at_work_comes_back_when_it_is_started(running: tuple[Trial, Proxy]) -> None:
    trial, _ = running
    client = trial.nvflare("plant2")
    (trial.folder / "plant2.fault").write_text("die")
    trial.wait_until(lambda: trial.running["plant2"].poll() is not None, "plant2 to die")
    trial.wait_for_round(ONE_LESS.__eq__, "a round without plant2", "fit")
    trial.wait_until(lambda: not Path(f"/proc/{client}").exists(), "NVFlare's client to end with it")
    trial.site("plant2")
    whole_again(trial)


def test_nvflares_client_is_started_again(running: tuple[Trial, Proxy]) -> None:
    trial, _ = running
    old = trial.nvflare("plant2")
    os.kill(old, signal.SIGKILL)
    trial.wait_until(lambda: not Path(f"/proc/{old}").exists(), "NVFlare's client to die")
    whole_again(trial)
    assert trial.nvflare("plant2") != old


def test_a_site_without_power_costs_one_deadline(running: tuple[Trial, Proxy]) -> None:
    trial, _ = running
    halted = [trial.running["plant2"].pid, trial.nvflare("plant2")]
    for pid in halted:
        os.kill(pid, signal.SIGSTOP)
    trial.wait_for_round(ONE_LESS.__eq__, "a round without plant2", "fit")
    for pid in halted:
        os.kill(pid, signal.SIGCONT)
    whole_again(trial)


def test_a_silent_line_costs_rounds_and_no_more(running: tuple[Trial, Proxy]) -> None:
    trial, line = running
    line.stall()
    trial.wait_for_round(ONE_LESS.__eq__, "a round without plant3", "fit")
    line.cut()
    whole_again(trial)


def test_a_line_that_is_refused_is_dialled_again(running: tuple[Trial, Proxy]) -> None:
    trial, line = running
    line.refusing = True
    line.cut()
    trial.wait_for_round(ONE_LESS.__eq__, "a round without plant3", "fit")
    line.refusing = False
    whole_again(trial)


def test_a_stolen_kit_is_locked_out_at_once(running: tuple[Trial, Proxy]) -> None:
    trial, _ = running
    for verb, round_ in (("disable", ONE_LESS), ("enable", WHOLE)):
        done = subprocess.run(
            [sys.executable, "-m", "fml_lightning", "server", verb, "plant2"],
            cwd=trial.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        trial.wait_for_round(round_.__eq__, f"a round of {round_} after {verb}", "fit")


def test_the_server_killed_comes_back_with_all_sites(running: tuple[Trial, Proxy]) -> None:
    trial, _ = running
    os.kill(trial.nvflare("server"), signal.SIGKILL)
    trial.wait_until(
        lambda: "server" in trial.log("fit") and "does not answer" in trial.log("fit"), "the loss", "fit"
    )
    whole_again(trial)
    trial.running["server"].kill()  # and fml server itself, whose host restarts it
    trial.running["server"].wait()
    trial.server()
    whole_again(trial)


def test_all_end_cleanly_on_sigterm(running: tuple[Trial, Proxy]) -> None:
    trial, _ = running
    clients = [trial.nvflare(name) for name in ("server", *trial.sites)]
    for name in ("fit", *trial.sites, "server"):
        trial.running[name].terminate()
        trial.wait_until(lambda name=name: trial.running[name].poll() is not None, f"{name} to end")
        assert "Traceback" not in trial.log(name)
    assert {name: trial.running[name].returncode for name in ("server", *trial.sites)} == dict.fromkeys(
        ("server", *trial.sites), 0
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in clients)
