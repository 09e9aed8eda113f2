"""`fml site` as a process, with a hub of the tests' own that speaks over its socket, in place of NVFlare's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fml_lightning import MAML, MLP, InnerLoop, SerialExecutor, SiteMemory, SiteUpdate, Work
from fml_lightning.__main__ import run_command
from fml_lightning.commands.demo_federation import DemoFederation
from fml_lightning.commands.site import SiteStatus, describe
from fml_lightning.commands.site_config import open_site
from fml_lightning.connectors import MQTT
from fml_lightning.connectors.broker.broker import free_port
from fml_lightning.datamodules import SimulatedFleet, SpoolFleet
from fml_lightning.executors.agreement import agreement
from fml_lightning.executors.messages import Answered, Asked, outcome_of, request
from fml_lightning.executors.nvflare.envelope import ToSite, encode
from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.local_link import SITE_SOCKET, Link, connect
from fml_lightning.executors.nvflare.parent import ParentStatus
from fml_lightning.executors.site_process import Done
from fml_lightning.executors.wire import unpack
from fml_lightning.params import clone
from tests.probes import LONG, until

REPOSITORY = Path(__file__).parent.parent

LAUNCH = """
import sys, time
from pathlib import Path
from fml_lightning import __main__
from fml_lightning.commands import site
from fml_lightning.executors import site_process
from fml_lightning.executors.nvflare.parent import ParentStatus

work = site_process.work_at_site

def hold(*arguments, **options):
    done = work(*arguments, **options)
    while Path("hold").exists():
        time.sleep(0.01)
    return done

class Nothing:
    def __init__(self, kit, folder, environment):
        self.kit = kit
    def status(self):
        return ParentStatus(running=True, connected=True)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        print("NVFlare's process is ended", flush=True)

site.NVFlareParent = Nothing
site_process.work_at_site = hold
sys.exit(__main__.run_command("site", sys.argv[1:]))
"""
CONFIG = """
site: plant1
learner:
  class_path: MAML
  init_args:
    net: {class_path: MLP, init_args: {in_features: 32, out_features: 4, hidden: [16]}}
    inner_loop: {lr: 0.2, steps: 2}
data:
  class_path: SimulatedFleet
  init_args:
    sites: 2
    unseen_sites: 0
    machines: 2
    seconds: 1.5
    windowing: {length: 512, hop: 512}
    features: {class_path: LogBandPowers, init_args: {bands: 32}}
    episodes: {shots: 1, queries: 3, tasks: 3, repeats: 2}
folder: home
seed_everything: 7
consent: {machines: names}
"""


class Site:
    """A process of `fml site` in a folder of its own."""

    def __init__(self, folder: Path, kit: Path, *options: str) -> None:
        self.folder = folder
        self.outputs = [folder / f"{time.monotonic_ns()}.{name}" for name in ("out", "err")]
        with self.outputs[0].open("wb") as out, self.outputs[1].open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, "--config", "site.yaml", "--kit", str(kit), *options],
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            )

    @property
    def said(self) -> list[str]:
        return self.outputs[0].read_text().splitlines()

    @property
    def warned(self) -> list[str]:
        return self.outputs[1].read_text().splitlines()

    @property
    def ready(self) -> bool:
        assert self.process.poll() is None, self.warned
        return any("is ready" in line for line in self.said)

    def send(self, message: bytes, patience: float = LONG) -> Link:
        link = connect(self.folder / "home", SITE_SOCKET, LONG)
        link.send(encode(ToSite(topic="work", data=message, expires=time.monotonic() + patience)))
        return link

    def ask(self, message: bytes) -> bytes:
        with self.send(message) as link:
            return link.receive(LONG)

    def ended(self) -> int:
        return self.process.wait(LONG)


@pytest.fixture
def start(tmp_path: Path, kits: DemoFederation) -> Iterator[Callable[..., Site]]:
    started: list[Site] = []

    def launch(*options: str, config: str = CONFIG, kit: str = "plant1") -> Site:
        (tmp_path / "site.yaml").write_text(config)
        started.append(Site(tmp_path, kits.kit(kit).absolute(), *options))
        return started[-1]

    yield launch
    for site in started:
        site.process.kill()
        site.process.wait()


def learner() -> MAML:
    torch.manual_seed(7)
    return MAML(MLP(32, 4, hidden=(16,)), inner_loop=InnerLoop(lr=0.2, steps=2))


def asking(stamp: int, verb: Any = "fit", local_steps: int = 2) -> Asked:
    made = learner()
    work = Work(verb, 0, clone(made.shared), 5, local_steps, "r1")
    return Asked(work, agreement(made), stamp, 60.0)


def outcome(message: bytes) -> Any:
    came = outcome_of(*unpack(message), "plant1", 0)
    assert isinstance(came, Answered)
    return came.outcome


def test_a_site_works_tells_how_it_is_and_ends_after_the_work_in_hand(
    start: Callable[..., Site], fleet: SimulatedFleet, tmp_path: Path
) -> None:
    fleet.setup("fit")
    asked = asking(1)
    # First, so that the site finds its kernels compiled, and needs no memory for the compiler.
    (expected,) = SerialExecutor().run(
        learner(), asked.work, {"plant1": fleet.sites["plant1"]}, SiteMemory(tmp_path / "serial")
    )
    port = free_port("127.0.0.1")
    site = start("--metrics_port", str(port))
    until(lambda: site.ready)
    came = outcome(site.ask(request(asked)))
    assert isinstance(came, SiteUpdate)
    assert isinstance(expected, SiteUpdate)
    assert all(torch.equal(came.delta[name], delta) for name, delta in expected.delta.items())
    resident = next(
        int(line.split()[1])
        for line in Path(f"/proc/{site.process.pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    assert resident <= 490 * 1024
    until(lambda: any("round 0 | fit done" in line for line in site.warned))
    assert all("certificate" in line for line in site.warned if "round 0" in line)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG) as page:
        text = page.read().decode()
    values = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("fml_site")}
    assert values["fml_site_connected"] == 1
    assert values["fml_site_updates_total"] == 1
    assert values["fml_site_sent_bytes_total"] > 0
    assert values["fml_site_certificate_seconds"] > 80_000

    # A long work, which SIGTERM does not cut short; what waits behind it is let go.
    (tmp_path / "hold").touch()
    with site.send(request(asking(2))) as link:
        until(lambda: json.loads((tmp_path / "home" / "stamps.json").read_text())["runs"]["r1"]["newest"] == 2)
        behind = site.send(request(asking(3)))
        site.process.send_signal(signal.SIGTERM)
        until(lambda: not (tmp_path / "home" / SITE_SOCKET).exists())  # it is heard
        (tmp_path / "hold").unlink()
        update = outcome(link.receive(LONG))
    assert isinstance(update, SiteUpdate)
    assert site.ended() == 0
    with behind, pytest.raises(OSError, match="gone"):
        behind.receive(LONG)
    assert site.said[-1] == "NVFlare's process is ended"
    lines = [json.loads(line) for line in (tmp_path / "home" / "sent.jsonl").read_text().splitlines()]
    assert [(line["verb"], line["round"]) for line in lines] == [("fit", 0)] * 2


@pytest.mark.long
def test_a_second_signal_ends_it_at_once_and_another_process_takes_over(
    start: Callable[..., Site], tmp_path: Path
) -> None:
    site = start()
    until(lambda: site.ready)
    second = start()
    assert second.ended() == 1
    assert "another fml site runs in this folder (process" in second.warned[-1]
    with site.send(request(asking(1, local_steps=10**9))) as link:
        until(lambda: (tmp_path / "home" / "stamps.json").exists())
        site.process.send_signal(signal.SIGTERM)
        # The socket goes as soon as the first signal is heard.
        until(lambda: not (tmp_path / "home" / SITE_SOCKET).exists())
        site.process.send_signal(signal.SIGTERM)
        assert site.ended() == -signal.SIGTERM
        with pytest.raises(OSError, match="gone"):
            link.receive(LONG)
    again = start()
    until(lambda: again.ready)
    refused = outcome(again.ask(request(asking(1))))
    assert "came before" in refused.reason
    assert isinstance(outcome(again.ask(request(asking(2)))), SiteUpdate)


def test_what_nobody_waits_for_any_more_is_not_worked_on(start: Callable[..., Site], tmp_path: Path) -> None:
    site = start()
    until(lambda: site.ready)
    with site.send(request(asking(1)), patience=-1.0) as late, pytest.raises(OSError, match="gone"):
        late.receive(LONG)
    assert not (tmp_path / "home" / "stamps.json").exists()
    with connect(tmp_path / "home", SITE_SOCKET, LONG) as link:
        link.send(b"nonsense")
        with pytest.raises(OSError, match="gone"):
            link.receive(LONG)
    assert isinstance(outcome(site.ask(request(asking(1)))), SiteUpdate)


@pytest.mark.parametrize(
    ("change", "kit", "said"),
    [
        (("site: plant1", "site: plant2"), "plant1", "site: expected 'plant1', as the certificate in"),
        (("", ""), "server", "is the server's; give that of the site 'plant1'"),
        (("consent: {machines: names}", "consent: {machines: everything}"), "plant1", "consent.machines"),
        (("consent: {machines: names}", "consent: {verbs: [steal]}"), "plant1", "consent.verbs"),
        (("consent: {machines: names}", "consents: {verbs: [fit]}"), "plant1", "consents"),
        (("class_path: MAML", "class_path: MAMA"), "plant1", "MAMA"),
        (("site: plant1\n", ""), "plant1", "site"),
        (("folder: home", f"folder: {'x' * 120}"), "plant1", "expected a path of at most 107 bytes"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_one_sentence(
    kits: DemoFederation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    kit: str,
    said: str,
) -> None:
    kit_of_it = str(kits.kit(kit).absolute())
    monkeypatch.chdir(tmp_path)
    Path("site.yaml").write_text(CONFIG.replace(*change) if change[0] else CONFIG)
    try:
        status = run_command("site", ["--config", "site.yaml", "--kit", kit_of_it])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fml: error: ")
    assert said in line


def test_a_site_of_a_config_is_opened_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").write_text(CONFIG)
    name, made, fleet, data, folder, consent = open_site("site.yaml")
    assert (name, data.name, folder) == ("plant1", "plant1", tmp_path / "home")
    assert fleet.sites == {}
    assert (consent.machines, consent.metrics, consent.rounds) == ("names", "machines", 1000)
    for own, theirs in zip(made.shared.values(), learner().shared.values(), strict=True):
        assert torch.equal(own, theirs)


def test_a_site_records_and_reads_labels_of_its_own_alone(tmp_path: Path) -> None:
    opened: list[str] = []

    class Recording(MQTT):
        def __init__(self, name: str) -> None:
            self.name = name

        @property
        def folder(self) -> Path:
            return tmp_path / self.name

        def __enter__(self) -> Any:
            opened.append(self.name)
            return self

        def __exit__(self, *error: object) -> None:
            opened.append(f"{self.name} ended")

        def check(self) -> None: ...

    fleet = SpoolFleet(
        {"plant1": Recording("plant1"), "plant2": Recording("plant2")},
        classes=["a", "b"],
        labels={"plant1": str(tmp_path / "not there.csv")},
    )
    fleet.prepare_site("plant2")
    assert fleet.site("plant2").machine_names == []
    assert opened == ["plant2"]
    fleet.teardown("fit")
    assert opened == ["plant2", "plant2 ended"]


def test_the_status_line_names_what_is_wrong_first(kits: DemoFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit(kits.kit("plant1"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    done = Done("fit", 12, "r1", now - 3, 0.4, None)
    up = SiteStatus("plant1", kit, ParentStatus(running=True, connected=True), done, 5, 0, 1000)
    assert describe(up) == (
        f"plant1 connected to {kit.host}:{kit.port} | round 12 | fit done 3 s ago, in 0.4 s"
        f" | certificate {int(kit.days_left())} days left"
    )
    down = SiteStatus("plant1", kit, ParentStatus(problem="nobody listens", restarts=2), None, 0, 0, 0)
    assert describe(down).startswith(f"PROBLEM: nobody listens | not connected to {kit.host}:{kit.port} | no work")
