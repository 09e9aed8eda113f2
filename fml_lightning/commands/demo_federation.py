"""A federation of one machine, for a trial: kits, and what its server, its sites and `fml fit` are told."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fml_lightning.connectors.broker import broker
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare import provisioning
from fml_lightning.executors.nvflare.kit import Role
from fml_lightning.executors.nvflare.provisioning import Authority

SERVER = "localhost"
AT_ONCE = 4
"""NVFlare's commands that run beside each other; each keeps a processor busy for a second."""

LEARNER = """\
class_path: fml_lightning.MAML
init_args:
  net:
    class_path: fml_lightning.MLP
    init_args: {in_features: 128, out_features: 4}
  inner_loop: {lr: 0.3, steps: 3}
"""
"""What server and sites must agree on."""

FEDERATION = """\
# What the server knows: the learner, and the sites' names. It has no data. fml fit --config federation.yaml
seed_everything: 0
model:
  learner:
{learner}  local_steps: 10
  executor:
    class_path: fml_lightning.NVFlareExecutor
    init_args: {{folder: server}}
data:
  class_path: fml_lightning.datamodules.RemoteFleet
  init_args:
    sites: [{names}]
    classes: [{classes}]
trainer:
  max_steps: 20
  check_val_every_n_epoch: 5
"""

SITE = """\
# What the site {name} decides. It alone opens its data. fml site --config {name}.yaml --kit kits/{name}
site: {name}
learner:
{learner}data:
  class_path: fml_lightning.datamodules.SimulatedFleet
  init_args:
    sites: {sites}
    unseen_sites: 0
    episodes: {{shots: 1, tasks: 4}}
folder: sites/{name}
consent:
  verbs: [rehearse, fit, validate, test]
  rounds: 1000
  metrics: machines
  machines: names
  statistics: false  # true: sums over its training windows may leave, which `standardize: {{}}` needs
accelerator: cpu
"""

In = TypeVar("In")
Out = TypeVar("Out")


class DemoFederation:
    """A certificate authority, a server and some sites in one folder of this machine.

    Args:
        sites: number of sites, plant1 and so on.
        folder: where all of it is put; made for it.
        port: where the server listens; None: at a free one.
    """

    def __init__(self, sites: int = 3, folder: str = "federation", port: int | None = None) -> None:
        if not 1 <= sites <= 100:
            raise UserError(f"sites: expected 1 to 100, got {sites}")
        self.folder = Path(folder)
        self.names = [f"plant{number}" for number in range(1, sites + 1)]
        self.port = port

    def kit(self, name: str) -> Path:
        """The kit of a site, or of the `server`."""
        return self.folder / "kits" / name

    def make(self, progress: Callable[[str], None]) -> None:
        """Make everything; `progress` hears a line now and then."""
        if self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(f"{self.folder} is not empty; name another --folder, or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        progress("certificate authority")
        authority = Authority.create(self.folder / "ca", "fml", SERVER, self.port or free_port())
        hosts: list[tuple[str, Role]] = [("server", "server"), *((name, "site") for name in self.names)]
        progress(f"requests, approvals and kits of the server and {len(self.names)} sites")
        requests = _beside(
            lambda host: provisioning.request(
                self.folder / "requests" / host[0],
                "fml",
                host[1],
                SERVER if host[1] == "server" else host[0],
                ("127.0.0.1",) if host[1] == "server" else (),
            ),
            hosts,
        )
        approvals = _beside(lambda asked: authority.approve(asked.file), requests)
        _beside(
            lambda each: provisioning.package(
                each[0].file, each[0].file.parent, authority.fingerprint, self.kit(each[1][0])
            ),
            list(zip(approvals, hosts, strict=True)),
        )
        self._write_configs()

    def commands(self) -> list[str]:
        """What to type, each in a terminal of its own."""
        go = f"cd {shlex.quote(str(self.folder))} && "
        sites = [f"{go}fml site --config {name}.yaml --kit kits/{name}" for name in self.names]
        return [f"{go}fml server --kit kits/server", *sites, f"{go}fml fit --config federation.yaml"]

    def _write_configs(self) -> None:
        from fml_lightning.connectors.plant.simulated_machine import CLASSES

        (self.folder / "federation.yaml").write_text(
            FEDERATION.format(
                learner=_indented(LEARNER, 4), names=", ".join(self.names), classes=", ".join(CLASSES)
            )
        )
        for name in self.names:
            text = SITE.format(name=name, learner=_indented(LEARNER, 2), sites=len(self.names))
            (self.folder / f"{name}.yaml").write_text(text)


def free_port() -> int:
    """A TCP port of this machine at which nothing listens."""
    return broker.free_port("127.0.0.1")


def _beside(make: Callable[[In], Out], inputs: Iterable[In]) -> Sequence[Out]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(make, inputs))


def _indented(text: str, spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}\n" for line in text.splitlines())
