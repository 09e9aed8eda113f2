"""The processes of a federation on this machine, for tests: started, hurt, watched, and always ended."""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from flare import PATIENCE, Process, Processes
from torch import Tensor, nn

from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.executors.nvflare.kit import Kit


class Normed(nn.Module):
    """A network with a BatchNorm layer, which FedBN keeps at each site."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the four classes."""
        logits: Tensor = self.layers(x)
        return logits


class Trial(Processes):
    """A copy of a demo federation, whose processes run in it: `with Trial(kits, tmp_path / "t") as trial: ...`."""

    def __init__(self, demo: DemoFederation, folder: Path) -> None:
        tests = Path(__file__).parent
        super().__init__(
            shutil.copytree(demo.folder, folder), {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
        )
        self.sites = list(demo.names)
        for name in self.sites:  # as many rounds as the machine is fast
            file = self.folder / f"{name}.yaml"
            file.write_text(file.read_text().replace("rounds: 1000\n", "rounds: 1000000000\n"))
        self.port = Kit(self.folder / "kits/server").port
        self._rounds: dict[Path, list[tuple[int, int]]] = {}
        """Those that were seen, by the folder of their logs."""

    def server(self) -> Process:
        """`fml server`."""
        return self.fml("server", "server", "--kit", "kits/server")

    def site(self, name: str, *more: str) -> Process:
        """`fml site`, whose answers the file `NAME.fault` may hurt."""
        given = ("site", "--config", f"{name}.yaml", "--kit", f"kits/{name}", *more)
        return self.module(name, "rogue_site", f"{name}.fault", *given)

    def fit(self, rounds: int, *more: str, name: str = "fit") -> Process:
        """`fml fit`, with a log of every round."""
        return self.fml(name, *self.fitting(rounds, *more, name=name))

    @staticmethod
    def fitting(rounds: int, *more: str, name: str = "fit") -> list[str]:
        """The arguments of `fml fit`, for the process `name`."""
        logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
        return [
            *("fit", "--config", "federation.yaml", f"--trainer.max_steps={rounds}"),
            *(logger, "--trainer.logger.save_dir=rounds", f"--trainer.logger.name={name}"),
            *("--trainer.logger.flush_logs_every_n_steps=1", "--trainer.enable_progress_bar=false", *more),
        ]

    def up(self, *sites: str) -> None:
        """Start the server and sites, and wait until these are connected, as both ends say."""
        self.server()
        for name in sites:
            self.site(name)

        def is_there(name: str) -> bool:
            return self.is_connected(name) and f"{name} since " in self.log("server")

        self.wait_until(lambda: all(map(is_there, sites)), "the sites to be connected")

    def nvflare(self, name: str) -> int:
        """The process id of NVFlare's process below `fml server` or `fml site`, which may just be restarted."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = self._below(self.running[name].pid)
            return len(found) == 1

        self.wait_until(is_there, f"NVFlare's process of {name}", name)
        return found[0]

    @staticmethod
    def _below(pid: int) -> list[int]:
        """The processes of NVFlare that a process has started; none where one of them is just ending."""
        try:
            children = [
                int(child)
                for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
            return [each for each in children if b"nvflare" in Path(f"/proc/{each}/cmdline").read_bytes()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def redirect(self, name: str, port: int) -> None:
        """Have a site dial another port of this machine, before it starts."""
        file = self.home(name) / f"kits/{name}/startup/fed_client.json"
        file.write_text(file.read_text().replace(f":{self.port}", f":{port}"))

    def is_connected(self, name: str) -> bool:
        """Whether the last line of a site's status says so."""
        lines = [line for line in self.log(name).splitlines() if "connected" in line]
        return bool(lines) and "not connected" not in lines[-1]

    def rounds(self, name: str = "fit") -> list[tuple[int, int]]:
        """Of each round of training so far: how many sites took part, and how many failed."""
        folder = self.home(name) / "rounds" / name
        files = sorted(folder.glob("version_*/metrics.csv"))
        found: list[tuple[int, int]] = []
        for file in files:
            rows = [row for row in csv.DictReader(file.read_text().splitlines()) if row.get("round/sites")]
            found += [(int(float(row["round/sites"])), int(float(row["round/failures"]))) for row in rows]
        seen = self._rounds.setdefault(folder, [])
        seen += found[len(seen) :]  # fewer are there while the logger writes its file anew, for another column
        return list(seen)

    def wait_for_round(self, holds: Callable[[tuple[int, int]], bool], what: str, name: str = "fit") -> None:
        """Wait for a round that begins after now and is as told."""
        seen = len(self.rounds(name))
        self.wait_until(lambda: any(holds(each) for each in self.rounds(name)[seen + 1 :]), what, name)

    def wait_until(self, holds: Callable[[], bool], what: str, name: str = "") -> None:
        """Wait until something holds; fail with all logs if it takes too long, or the process `name` has ended."""
        ends = time.monotonic() + PATIENCE
        while not holds():
            ended = name and self.running[name].poll() is not None
            if (ended and not holds()) or time.monotonic() > ends:
                logs = "\n".join(f"--- {each}\n{self.log(each)[-2500:]}" for each in self.running)
                raise AssertionError(f"waited for {what}{' but it ended' if ended else ''}\n{logs}")
            time.sleep(0.1)
