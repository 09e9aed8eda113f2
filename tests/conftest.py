"""Small fleets and learners that the tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flare import kits  # noqa: F401  a fixture: made once, whichever files use it
from hypothesis import HealthCheck, settings
from lightning.pytorch import Trainer
from probes import needs_mosquitto

from fml_lightning import MAML, MLP, InnerLoop
from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.datamodules import Episodes, Recording, SimulatedFleet, SiteData
from fml_lightning.live import background_process
from fml_lightning.preprocessing import LogBandPowers, Preprocessing, Windowing
from fml_lightning.types import Episode, Examples

os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # of lightning's use of it, not ours

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # how long an example takes, or is made, is no fault: the machine may be busy

REPOSITORY = Path(__file__).parent.parent


class FailuresAtOnce:
    """Prints a failure when it happens: a run that is cut short has then said what failed."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self.reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print what failed, and how."""
        if report.failed:
            self.reporter.ensure_newline()
            self.reporter.write_line(f"{report.nodeid} failed in its {report.when}:\n{report.longreprtext}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Report failures at once, in the process that prints."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(reporter))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made in the background has our priority: at the lowest, it may wait for as long as others work."""
    monkeypatch.setattr(background_process, "LOWEST", os.getpriority(os.PRIO_PROCESS, 0))


@pytest.fixture
def fleet() -> SimulatedFleet:
    """Two training sites and an unseen one, of two machines each."""
    return SimulatedFleet(
        sites=2,
        unseen_sites=1,
        machines=2,
        seconds=1.5,
        windowing=Windowing(length=512, hop=512),
        features=LogBandPowers(bands=32),
        episodes=Episodes(shots=1, queries=3, tasks=3, repeats=2),
    )


@pytest.fixture
def make_learner() -> Callable[..., MAML]:
    """A MAML that fits the fixture `fleet`, the same every time."""

    def make(**options: Any) -> MAML:
        torch.manual_seed(1)
        return MAML(MLP(32, 4, hidden=(16,)), inner_loop=InnerLoop(lr=0.2, steps=2), **options)

    return make


@pytest.fixture
def quiet_trainer() -> Callable[..., Trainer]:
    """A Trainer that writes nothing."""

    def make(**options: Any) -> Trainer:
        return Trainer(
            **{
                "accelerator": "cpu",
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "max_epochs": -1,
                **options,
            }
        )

    return make


@pytest.fixture
def site() -> SiteData:
    """A site whose two classes differ by a tone, with overlapping windows."""
    rng = np.random.default_rng(0)
    time = np.arange(12_000) / 1000.0
    recordings = [
        Recording(
            machine,
            condition,
            label,
            1000.0,
            (np.sin(2 * np.pi * (50 + 100 * label) * time) + 0.5 * rng.normal(size=len(time))).astype(np.float32),
        )
        for machine in ("fan", "pump")
        for condition in ("slow", "fast")
        for label in (0, 1)
    ]
    preprocessing = Preprocessing(Windowing(length=256, hop=128), LogBandPowers(bands=16))
    return SiteData("plant", recordings, preprocessing, Episodes(tasks=4, repeats=3))


@pytest.fixture
def episode() -> Episode:
    """Three 2-way tasks of 4 support and 6 query windows with 5 features, float64."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Episode(
        support=Examples(normal(3, 4, 5), torch.tensor([[0, 1, 0, 1]] * 3)),
        query=Examples(normal(3, 6, 5), torch.tensor([[0, 1, 1, 0, 1, 0]] * 3)),
        machines=("a", "b", "c"),
        centre=torch.zeros(3, 5, dtype=torch.float64),
    )


@pytest.fixture
def cwru_root() -> str:
    """The real CWRU data, where there is a copy."""
    root = Path(os.environ.get("FML_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "cwru" / "manifest.csv").is_file():
        pytest.skip(f"needs the CWRU data below {root}: set FML_DATA to the folder that holds cwru/manifest.csv")
    return str(root)


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Start a real broker with the users server and plant1; without mosquitto: skipped, but in CI a failure.

    Each user has logins for what tests do at the same time: `server` publishes, `server.recorder` and
    `server.second` record, `server.watcher` listens.
    """
    needs_mosquitto()
    started: list[Broker] = []

    def start(**options: Any) -> Broker:
        logins = {"users": ("server", "plant1"), "roles": ("recorder", "second", "watcher")}
        started.append(Broker(tmp_path / f"broker{len(started)}", **{**logins, **options}))
        started[-1].start()
        return started[-1]

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def broker(start_broker: Callable[..., Broker]) -> Broker:
    """A real broker, with passwords and without TLS."""
    return start_broker()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a real disk of 256 KiB, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs root, to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
