"""Links between processes of one host: a unix socket in a folder of the user's, and a key that both ends know.

Only bytes pass; nothing is pickled. Neither end waits for ever: a peer that stops in the middle of a message, or
that no longer reads, is given up.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import stat
import struct
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from types import TracebackType
from typing import Self

from fml_lightning.errors import UserError

SERVER_SOCKET = "server.sock"
"""On which ServerHub listens, for `fml fit`, `fml server` and `fml server disable`."""
SITE_SOCKET = "site.sock"
"""On which `fml site` listens, for SiteHub."""
HUB_SOCKET = "hub.sock"
"""On which SiteHub listens, for `fml fetch`."""
KEY = "link.key"
"""The file with the key, beside the sockets."""
KEY_BYTES = 32
LONGEST_PATH = 107
"""Bytes of a socket's path, as Linux takes them."""
PATIENCE = 5.0
"""Seconds that connecting, and showing that one knows the key, may take."""
STALL = 30.0
"""Seconds that a peer may pause in the middle of a message."""
MOST_BYTES = 2**30
"""Bytes of a message, unless whoever receives it says otherwise."""

log = logging.getLogger(__name__)


class LinkError(ConnectionError):
    """The other end is gone, has stopped, or has sent something that is too long: the link is of no more use."""


class Link:
    """One connection, both ends of which have shown that they know the key. Threads may send at the same time."""

    def __init__(self, made: socket.socket) -> None:
        self._connection = Connection(made.detach())
        self._sending = threading.Lock()
        self._closing = threading.Lock()

    def send(self, message: bytes) -> None:
        """Send a message.

        Raises:
            LinkError: the other end has gone, or does not read.
        """
        with self._sending:
            try:
                self._connection.send_bytes(message)
            except (OSError, ValueError) as error:
                self._end()  # half a message may have gone out: nothing may follow it
                raise LinkError(f"the other end does not read ({type(error).__name__})") from error

    def receive(self, patience: float | None = None, most_bytes: int = MOST_BYTES) -> bytes:
        """The next message.

        Args:
            patience: seconds to wait for it; None: as long as the other end lives.
            most_bytes: how long it may be.

        Raises:
            TimeoutError: none has begun to come; the link is still good.
            LinkError: the other end has gone, stopped halfway, or sent a longer one.
        """
        try:
            if not self._connection.poll(patience):
                raise TimeoutError(f"no message within {patience} s")
            return self._connection.recv_bytes(most_bytes)
        except TimeoutError:
            raise
        except (EOFError, OSError) as error:
            self.close()
            raise LinkError(f"the other end is gone ({type(error).__name__})") from error

    def fileno(self) -> int:
        """For `select`: readable when a message, or the end, has come."""
        return self._connection.fileno()

    def close(self) -> None:
        """End the link; again, or from another thread, does nothing."""
        with self._closing:  # a descriptor that is closed twice may be somebody else's by then
            self._end()
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def meet(self, key: bytes, patience: float, *, first: bool) -> None:
        """Show the other end that one knows the key, and see that it does; end the link if not.

        Raises:
            LinkError: it does not.
            OSError: it has gone, or says nothing.
        """
        challenge, answer = deliver_challenge, answer_challenge
        try:
            with self._same_socket() as same:
                _give_up_after(same, patience)
            for each in (challenge, answer) if first else (answer, challenge):
                each(self._connection, key)
            with self._same_socket() as same:
                _give_up_after(same, STALL)
        except BaseException as error:
            self.close()
            if isinstance(error, AuthenticationError | EOFError):
                raise LinkError("the other end does not know the key") from error
            raise

    def _end(self) -> None:
        """Wake whoever waits at either end, and let it find that the link is over."""
        with contextlib.suppress(OSError), self._same_socket() as same:
            same.shutdown(socket.SHUT_RDWR)

    def _same_socket(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self._connection.fileno()))


class Listener:
    """Where other processes of this user connect to; one process at a time may listen on a name."""

    def __init__(self, folder: Path, name: str) -> None:
        path = _path(folder, name)
        _private(folder, make=True)
        self._key = _key(folder)
        self._path = path
        self._lock = _lock(path)
        path.unlink(missing_ok=True)  # of a process that was killed: whoever lives holds the lock
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.bind(str(path))
            path.chmod(0o600)
            self._socket.listen(16)
        except OSError:
            self.close()
            raise

    def accept(self, patience: float | None = None) -> Link:
        """The next process that knows the key; others are refused, and logged.

        Args:
            patience: seconds to wait for one; None: for ever.

        Raises:
            TimeoutError: nobody came.
            OSError: the listener has been closed.
        """
        end = None if patience is None else time.monotonic() + patience
        while True:
            self._socket.settimeout(None if end is None else max(0.0, end - time.monotonic()))
            try:
                came, _ = self._socket.accept()
            except BlockingIOError as error:
                raise TimeoutError("nobody came") from error
            came.setblocking(True)
            link = Link(came)
            try:
                link.meet(self._key, PATIENCE, first=True)
                return link
            except OSError as error:
                log.warning("%s: a process that does not know the key was refused", self._path.name)
                log.debug("%s", type(error).__name__)

    def close(self) -> None:
        """Listen no more, and remove the socket; again does nothing."""
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in `accept`
        self._socket.close()
        self._path.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


def listen(folder: str | Path, name: str) -> Listener:
    """Listen on a socket in a folder, which becomes the user's alone (0700); the key is made where there is none.

    Raises:
        UserError: the folder or its key is another user's, the path is too long, or another process listens there.
    """
    return Listener(Path(folder), name)


def connect(folder: str | Path, name: str, patience: float = PATIENCE) -> Link:
    """Connect to the process that listens on a socket in a folder.

    Raises:
        UserError: the folder or its key is another user's, or the path is too long.
        OSError: nobody listens there (now), or not within so many seconds.
    """
    path = _path(Path(folder), name)
    _private(path.parent, make=False)
    key = _key(path.parent)
    made = socket.socket(socket.AF_UNIX)
    try:
        _give_up_after(made, patience)
        made.connect(str(path))
    except OSError:
        made.close()
        raise
    link = Link(made)
    link.meet(key, patience, first=False)
    return link


def _give_up_after(made: socket.socket, seconds: float) -> None:
    """Have the kernel end each wait for the other end, whoever reads or writes by the descriptor."""
    whole, rest = divmod(max(seconds, 0.001), 1)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        made.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(whole), int(rest * 1e6)))


def _path(folder: Path, name: str) -> Path:
    path = folder.absolute() / name
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise UserError(
            f"{path}: expected a path of at most {LONGEST_PATH} bytes, as sockets have, got"
            f" {len(os.fsencode(path))}; use a folder with a shorter name"
        )
    return path


def _private(folder: Path, *, make: bool) -> None:
    """See that the folder is the user's; whoever makes it, or listens in it, shuts others out of it."""
    if make:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_foreign(folder)
    if make and stat.S_IMODE(folder.stat().st_mode) & 0o077:
        folder.chmod(0o700)


def _refuse_foreign(path: Path) -> None:
    try:
        owner = path.stat().st_uid
    except PermissionError:
        owner = -1
    if owner != os.geteuid():
        raise UserError(
            f"{path}: expected it to belong to the user that this process runs as, got another owner; run all"
            " processes of one folder as one user"
        )


def _key(folder: Path) -> bytes:
    """The key of a folder: made once, whole or not at all, whichever process comes first."""
    path = folder / KEY
    if not path.exists():
        part = folder / f"{KEY}.{secrets.token_hex(8)}"
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was faster: its key holds
                os.link(part, path)
        finally:
            part.unlink(missing_ok=True)
    _refuse_foreign(path)
    key = path.read_bytes()
    if len(key) != KEY_BYTES or stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(
            f"{path}: expected a key of {KEY_BYTES} bytes that its owner alone may read; delete it, and restart"
            " the processes of this folder"
        )
    return key


def _lock(path: Path) -> int:
    """Hold the name for this process, as long as it lives."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise UserError(f"{path}: another process listens there already; end it first") from error
    return lock
