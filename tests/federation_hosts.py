"""A federation whose hosts are folders of this machine, each of which its own user alone can open."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation_trial import Trial

from fml_lightning.commands.demo_federation import DemoFederation

REPOSITORY = Path(__file__).parent.parent
FIRST_USER = 61_001
"""The number of the first host's user, for whom there is no account, nor need be."""
ONE_AFTER_ANOTHER = """
import json, sys, time
from pathlib import Path
from fml_lightning.commands.learning import run

def status(verb, *more):
    if verb != "wait":
        return run([verb, *more])
    Path(f"{more[0]}.waits").touch()
    while not Path(more[0]).exists():
        time.sleep(0.05)
    return 0

sys.exit(next((failed for each in sys.argv[1:] if (failed := status(*json.loads(each)))), 0))
"""
"""Runs several commands, `fml fit` and `fml test`, in one process, which imports torch once; `wait FILE` waits."""
READING = """
import sys
for path in sys.argv[1:]:
    try:
        open(path, "rb").close()
        print("read")
    except PermissionError:
        print("refused")
"""


class Hosts(Trial):
    """A server and three sites, whose folders are `server`, `plant1` and so on, below a folder that all may pass.

    As root, a host's processes are those of a user of its own, and the host's folder is that user's alone.
    """

    def __init__(self, demo: DemoFederation, folder: Path) -> None:
        super().__init__(demo, folder)
        folder.chmod(0o711)
        (folder / "ca").chmod(0o700)
        shutil.rmtree(folder / "requests")
        self.users: dict[str, int] = {}
        self.server_host = "server"
        self.learner: str | None = None
        """What the sites that run learn."""
        for host in ("server", *self.sites):
            self._add_host(host, folder / "kits" / host)
        self.backup = folder / "backup"
        """Of the server's host; to begin with, of its kit."""
        shutil.copytree(folder / "kits/server", self.backup / "kits/server")
        self.backup.chmod(0o700)
        shutil.rmtree(folder / "kits")
        for file in folder.glob("*.yaml"):
            file.unlink()
        self._way = _open_way(folder) if APART and _closed() else ""

    def _add_host(self, host: str, kit: Path) -> None:
        """A host with a kit, and nothing else."""
        shutil.copytree(kit, self.folder / host / "kits" / host)
        self.users[host] = FIRST_USER + len(self.users)
        self.give(host)

    def replace_server(self) -> None:
        """Lose the server's host and all that is on it, and make another one, of another user, of the backup."""
        lost = self.server_host
        shutil.rmtree(self.folder / lost)
        self.server_host = "another"
        self.users[self.server_host] = self.users.pop(lost) + 100
        shutil.copytree(self.backup, self.folder / self.server_host)
        self.give(self.server_host)

    def give(self, host: str) -> None:
        """Let a host's user, and nobody else, have what is in the host's folder."""
        home = self.folder / host
        home.chmod(0o700)
        if APART:
            for path in (home, *home.rglob("*")):
                os.chown(path, self.users[host], self.users[host], follow_symlinks=False)

    def write(self, host: str, file: str, settings: dict[str, Any]) -> None:
        """Write a configuration of a host."""
        (self.folder / host / file).write_text(json.dumps(settings, indent=2))
        self.give(host)

    def host(self, name: str) -> str:
        """The host of a process, by the process's name."""
        return name if name in self.sites else self.server_host

    def home(self, name: str) -> Path:
        """The folder of the process's host."""
        return self.folder / self.host(name)

    def launcher(self, name: str) -> list[str]:
        """What makes a process that of its host's user; a service may have no home, or one that is not there."""
        host = self.host(name)
        homes = {"plant1": ["-u", "HOME"], "plant2": ["HOME=/nonexistent"]}
        variables = ["env", *("-u", "XDG_CACHE_HOME"), *homes.get(host, [f"HOME={self.folder / host}"])]
        if not APART:
            return variables
        user = self.users[host]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        way = ["unshare", "--mount", "sh", "-ec", f'{self._way}exec "$@"', "sh"] if self._way else []
        return [*way, *become, *variables]

    def site(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        """`fml site`, which notes what it opens of all hosts' folders."""
        given = ("site", "--config", f"{name}.yaml", "--kit", f"kits/{name}", *more)
        noting = ("-m", "opened_files", "opened", str(self.folder), "rogue_site", f"{name}.fault")
        return self.start(name, *noting, *given)

    def opened(self, site: str) -> set[str]:
        """The hosts of whose folders a site has opened anything."""
        root = self.folder.resolve()
        lines = (self.home(site) / "opened").read_text().splitlines()
        return {Path(line).relative_to(root).parts[0] for line in lines}

    def commands(self, name: str, *commands: list[str]) -> subprocess.Popen[bytes]:
        """Several of `ONE_AFTER_ANOTHER`, in one process of the server's host."""
        return self.start(name, "-c", ONE_AFTER_ANOTHER, *map(json.dumps, commands))

    def reads(self, host: str, *paths: Path) -> list[str]:
        """Of each of some files, whether a process of a host's user has `read` it, or was `refused`."""
        done = subprocess.run(
            [*self.launcher(host), sys.executable, "-S", "-c", READING, *map(str, paths)],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    def user_of(self, pid: int) -> int:
        """The user that a process runs as."""
        return Path(f"/proc/{pid}").stat().st_uid


def _closed() -> Mapping[Path, list[Path]]:
    """Where Python and our code lie, by the closed folders that no other user gets past."""
    found: dict[Path, list[Path]] = {}
    for path in {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), REPOSITORY.resolve()}:
        shut = [parent for parent in path.parents if not parent.stat().st_mode & 0o001]
        if shut:
            found.setdefault(shut[-1], []).append(path)
    return found


def _open_way(folder: Path) -> str:
    """Shell commands after which any user can reach Python and our code.

    They are for a mount namespace of their own: a closed folder is covered by one in which there is nothing else.
    """
    commands = []
    for number, (shut, paths) in enumerate(_closed().items()):
        cover = folder / "ways" / str(number)
        for path in paths:
            place = cover / path.relative_to(shut)
            place.mkdir(parents=True)
            commands.append(f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(place))}\n")
        commands.append(f"mount --rbind {shlex.quote(str(cover))} {shlex.quote(str(shut))}\n")
    return "".join(commands)


def _can_be_apart() -> bool:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    if not _closed():
        return True
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


APART = _can_be_apart()
"""Whether hosts can have users of their own. Where not, `opened` still tells what a site has opened."""
