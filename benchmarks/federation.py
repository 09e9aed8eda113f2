"""What a round over hosts costs beside the same round in one process, and what memory a site's processes hold.

    pip install -c constraints.txt -e '.[flare,metrics]'
    python -m benchmarks.federation

Makes a federation of this machine (`fml provision demo`), starts `fml server` and three `fml site` with NVFlare's
real processes over loopback and mutual TLS, and lets `fml fit` train 20 rounds of MAML (2 local steps, 4 tasks, 3
inner steps), once for each size of network. In every round `fml fit` has the same work done twice, by the sites
through `NVFlareExecutor` and by `SerialExecutor` in its own process, each first in its turn; both must answer with
the same bits. Everything else of a round (cohort, mean, server's step, checkpoint) is the same code for either, so
that the difference of both times is what the way over hosts costs. One thread each; the three sites work at the
same time, on whatever processors there are.

Medians over rounds, in seconds: `hosts` the round through NVFlare; `serial` the three sites one after another;
`overhead` their difference, round by round; `slowest` the slowest site in one process; `at_site` the slowest
site's own time, as it says, while the others work beside it; `carriage` what `hosts` has above that: messages,
both hubs, both sockets, stamps and log on disk. MiB of one site after all rounds, the largest of the three:
`site` of `fml site`, `nvflare` of its NVFlare client, resident (pages shared with other processes count in
full: what a host with one site has), proportional (pages that processes of this machine share count in parts),
and the most that was ever resident. `load` is the machine's, before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from benchmarks.report import print_table, write
from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.datamodules import Episodes, SimulatedFleet
from fml_lightning.executors import Executor, NVFlareExecutor, SerialExecutor, SiteMemory
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.learners.learner import Learner

HIDDEN = {34_820: "[256]", 999_503: "[933, 933]"}
"""Hidden layers of the network, by how many parameters it has."""
SITES = 3
GOALS = {34_820: 0.1, 999_503: 0.5}
"""Most seconds of overhead."""
MOST_MIB, MOST_NVFLARE_MIB = 600, 110
"""Resident memory of a site's two processes, and of NVFlare's of them."""
KINDS = {"resident": "Rss", "proportional": "Pss", "peak": "VmHWM"}
"""Of memory, and Linux's names of them."""
PATIENCE = 1800.0
"""Seconds that a `fml fit` may take."""


class Twice(Executor):
    """Has each round of training done by real sites and in this process, and notes how long either took.

    Args:
        folder: the server's.
        notes: the file to which each round adds a line.
    """

    def __init__(self, folder: str, notes: str) -> None:
        self.hosts = NVFlareExecutor(folder)
        self.serial = SerialExecutor()
        self.notes = Path(notes)
        fleet = SimulatedFleet(sites=SITES, unseen_sites=0, episodes=Episodes(shots=1, tasks=4))
        self.data = {name: fleet.site(name) for name in (f"plant{n}" for n in range(1, SITES + 1))}

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[SiteUpdate | SiteFailure]:
        """Yield what the sites answer."""
        if work.verb != "fit":
            yield from self.hosts.run(learner, work, sites, memory)
            return
        taken: dict[str, float] = {}
        outcomes: dict[str, list[SiteUpdate | SiteFailure]] = {}
        for way in ("hosts", "serial") if work.round % 2 else ("serial", "hosts"):
            executor = self.hosts if way == "hosts" else self.serial
            data = sites if way == "hosts" else {name: self.data[name] for name in sites}
            began = time.perf_counter()
            outcomes[way] = sorted(executor.run(learner, work, data, memory), key=lambda outcome: outcome.site)
            taken[way] = time.perf_counter() - began
        if all(isinstance(outcome, SiteUpdate) for outcome in outcomes["hosts"]) and len(sites) == SITES:
            _refuse_other_bits(outcomes["hosts"], outcomes["serial"])
            taken["slowest"] = max(outcome.seconds for outcome in outcomes["serial"])
            taken["at_site"] = max(outcome.seconds for outcome in outcomes["hosts"])
            with self.notes.open("a") as file:
                file.write(json.dumps(taken) + "\n")
        yield from outcomes["hosts"]

    def close(self) -> None:
        """Let go of the server."""
        self.hosts.close()


def _refuse_other_bits(hosts: list[SiteUpdate | SiteFailure], serial: list[SiteUpdate | SiteFailure]) -> None:
    for ours, theirs in zip(hosts, serial, strict=True):
        assert isinstance(ours, SiteUpdate)
        assert isinstance(theirs, SiteUpdate), theirs
        assert ours.delta.keys() == theirs.delta.keys()
        assert all(torch.equal(ours.delta[name], theirs.delta[name]) for name in ours.delta), ours.site


def row(parameters: int, rounds: int) -> dict[str, Any]:
    """Run a federation of networks of this size; its line of the table."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fml") as folder, ExitStack() as held:
        demo = DemoFederation(SITES, f"{folder}/f")
        demo.make(lambda line: None)
        _configure(demo, HIDDEN[parameters])
        held.enter_context(_process(demo.folder, "server", "--kit", "kits/server"))
        pids = [
            held.enter_context(
                _process(demo.folder, "site", "--config", f"{name}.yaml", "--kit", f"kits/{name}")
            ).pid
            for name in demo.names
        ]
        fit = ("fit", "--config", "federation.yaml", f"--trainer.max_steps={rounds}")
        with _process(demo.folder, *fit, "--trainer.enable_progress_bar=false") as process:
            status = process.wait(PATIENCE)
        assert status == 0, (demo.folder / "fit.log").read_text()[-2000:]
        notes = [json.loads(line) for line in (demo.folder / "notes.jsonl").read_text().splitlines()]
        assert len(notes) == rounds, f"{len(notes)} of {rounds} rounds had all sites"
        sites = [(memory(pid), memory(_nvflare(pid))) for pid in pids]
    told: dict[str, Any] = {"parameters": parameters, "rounds": rounds}
    for note in notes:
        note["overhead"], note["carriage"] = note["hosts"] - note["serial"], note["hosts"] - note["at_site"]
    for what in ("hosts", "serial", "overhead", "slowest", "at_site", "carriage"):
        told[what] = round(statistics.median(note[what] for note in notes), 3)
    for kind in KINDS:
        site, nvflare = max(((own[kind], theirs[kind]) for own, theirs in sites), key=sum)
        told[f"site_{kind}_MiB"], told[f"nvflare_{kind}_MiB"] = round(site), round(nvflare)
    told["load"] = f"{load:.1f}-{os.getloadavg()[0]:.1f}"
    return told


def _configure(demo: DemoFederation, hidden: str) -> None:
    """Have server and sites learn a network with these hidden layers, each round twice."""
    files = [demo.folder / f"{name}.yaml" for name in ("federation", *demo.names)]
    for file in files:
        text = file.read_text().replace("out_features: 4}", f"out_features: 4, hidden: {hidden}}}")
        text = text.replace("class_path: fml_lightning.NVFlareExecutor", "class_path: benchmarks.federation.Twice")
        text = text.replace("{folder: server}", "{folder: server, notes: notes.jsonl}")
        file.write_text(text.replace("  local_steps: 10\n", f"  quorum: {SITES}\n  local_steps: 2\n"))


@contextmanager
def _process(folder: Path, command: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`fml COMMAND`, with a log, until the end of the block."""
    root = str(Path(__file__).parent.parent)
    with (folder / f"{command}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fml_lightning", command, *arguments],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _nvflare(pid: int) -> int:
    """NVFlare's process below `fml site`."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in children for child in file.read_text().split()]
    (only,) = [child for child in found if b"nvflare" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return only


def memory(pid: int) -> dict[str, float]:
    """MiB of a process, of `KINDS`."""
    said = "".join(Path(f"/proc/{pid}/{file}").read_text() for file in ("status", "smaps_rollup"))
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", said, re.MULTILINE))
    return {kind: int(kilobytes[field]) / 1024 for kind, field in KINDS.items()}


def main() -> None:
    """Measure every size, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", nargs="+", type=int, default=list(HIDDEN), choices=list(HIDDEN))
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for parameters in options.parameters:
        rows.append(row(parameters, options.rounds))
        print(rows[-1], flush=True)
        write("federation", rows, sites=SITES, rounds=options.rounds, processors=os.cpu_count())
    print_table(rows)
    for each in rows:
        both = each["site_resident_MiB"] + each["nvflare_resident_MiB"]
        print(
            f"{each['parameters']:,} parameters: overhead {each['overhead']} s (goal {GOALS[each['parameters']]});"
            f" a site {both} MiB (goal {MOST_MIB}), of that NVFlare {each['nvflare_resident_MiB']}"
            f" (goal {MOST_NVFLARE_MIB})"
        )


if __name__ == "__main__":
    main()
