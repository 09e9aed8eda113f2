"""`fml fetch`: at a site, fetch what the server has released; it comes by the line that the site holds anyway."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.model_maker import remember_site
from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.commands.site_config import read_site_config
from fml_lightning.durable import make_folder, write
from fml_lightning.errors import UserError
from fml_lightning.executors.agreement import agreement, differences
from fml_lightning.executors.nvflare.envelope import (
    FETCH,
    EnvelopeError,
    Fetch,
    Fetched,
    Passed,
    Released,
    Reply,
    decode,
    encode,
)
from fml_lightning.executors.nvflare.local_link import HUB_SOCKET, MOST_BYTES, Link, connect
from fml_lightning.executors.release import Release
from fml_lightning.names import file_name, shown

FETCHED = "fetched"
"""The folder, below the site's, with a file `RUN.ckpt` of each run that was fetched."""
PATIENCE = 60.0
"""Seconds that the server may take to answer."""


def run(arguments: Sequence[str]) -> int:
    """Fetch a run, and say what came."""
    options = Parser(prog="fml fetch", description=f"{COMMANDS['fetch'][0].upper()}{COMMANDS['fetch'][1:]}.")
    options.add_argument("--config", type=str, required=True, help="the site's configuration, as of fml site")
    options.add_argument("--run", type=str | None, default=None, help="the run's id; the newest unless set")
    parsed = options.parse_args(list(arguments))
    site = read_site_config(["--config", parsed.config])
    with _hub(site.folder) as link:
        chosen = _chosen(_ask(link, Fetch()).released, parsed.run)
        message = _whole(link, chosen)
    release = Release.read(message)
    if release.run != chosen.run:
        raise UserError(
            f"run {shown(chosen.run)}: the server sent another one, {shown(release.run)}; release it anew"
        )
    make_folder(site.folder / FETCHED)
    file = site.folder / FETCHED / f"{file_name(release.run)}.ckpt"
    write(file, message)
    remember_site(site.folder, parsed.config, site.data)
    print(
        f"fetched run {release.run} after {release.rounds} rounds, {len(message) / 1e6:.2f} MB, learner"
        f" {release.digest}, into {file}"
    )
    if differing := differences(release.learner, agreement(site.learner)):
        print(f"fml: warning: it does not fit the learner of {parsed.config}: {differing}", file=sys.stderr)
    return 0


def newest(folder: Path) -> Path:
    """The file that was fetched last into a site's folder.

    Raises:
        UserError: nothing was fetched yet.
    """
    files = sorted((folder / FETCHED).glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        raise UserError(f"{folder}: nothing was fetched yet; fetch what the server released, with fml fetch")
    return files[-1]


def _hub(folder: Path) -> Link:
    """The hub in the site's NVFlare client."""
    try:
        return connect(folder, HUB_SOCKET)
    except OSError as error:
        raise UserError(
            f"{folder}: fml site does not run there, or is not connected yet ({type(error).__name__}); start it,"
            " and see its status line"
        ) from error


def _ask(link: Link, what: Fetch) -> Fetched:
    """One question to the server, and its answer."""
    try:
        link.send(encode(Passed(topic=FETCH, data=encode(what), deadline=PATIENCE)))
        reply = decode(link.receive(PATIENCE + 5.0), Reply)
        fetched = decode(reply.data, Fetched) if reply.data is not None else Fetched(reason=reply.reason)
    except (OSError, EnvelopeError) as error:
        raise UserError(
            f"fetch: the server's answer did not come ({error}); see the status line of fml site"
        ) from error
    if fetched.reason:
        raise UserError(f"fetch: {shown(fetched.reason, 300)}")
    return fetched


def _chosen(released: Sequence[Released], run: str | None) -> Released:
    """The run that is asked for, or the one that was released last."""
    if not released:
        raise UserError("fetch: the server has released no run; there, fml server release hands one out")
    if run is None:
        return max(released, key=lambda each: each.time)
    found = next((each for each in released if each.run == run), None)
    if found is None:
        names = ", ".join(shown(each.run) for each in released[:10])
        raise UserError(f"--run: the server has released no run {shown(run)}; it has released {names}")
    return found


def _whole(link: Link, released: Released) -> bytes:
    """A file of the server's, piece by piece."""
    if released.bytes > MOST_BYTES:
        raise UserError(f"run {shown(released.run)}: expected at most {MOST_BYTES} bytes, got {released.bytes}")
    message = bytearray()
    while piece := _ask(link, Fetch(run=released.run, at=len(message))).piece:
        message += piece
        if len(message) > released.bytes:
            break
    if len(message) != released.bytes:
        raise UserError(f"run {shown(released.run)}: it was released anew meanwhile; fetch it again")
    return bytes(message)
