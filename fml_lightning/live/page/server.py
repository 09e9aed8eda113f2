"""The page's server: a board over HTTP, by the standard library."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Collection
from functools import partial
from types import TracebackType
from typing import Any

from fml_lightning.errors import UserError
from fml_lightning.live.board import Board
from fml_lightning.live.page.access import SHORTEST_TOKEN, Access
from fml_lightning.live.page.answers import Answers, Served, packaged
from fml_lightning.live.page.listener import Listener
from fml_lightning.live.page.messages import Tiles


class Page:
    """Serves a board at `url` while it is entered.

    Args:
        board: what is shown and asked.
        host: the address to listen at. Others than this host's own reach it only where this says so, as `0.0.0.0`
            does, and then they need the token.
        port: 0 chooses a free one.
        token: what a browser must show once (it then keeps a cookie), and a program with each request, as
            `Authorization: Bearer TOKEN`. At least 16 characters. HTTP shows it to whoever listens on the line.
        names: host names by which browsers ask for the page, besides `host` and this computer's own.
        raise_at: the score at which alarms are raised, drawn with the scores.
        clear_at: the score at which they clear, likewise.

    Raises:
        UserError: there is no token beyond this host, or it is short; on entering: the port cannot be used.
    """

    def __init__(
        self,
        board: Board,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        *,
        names: Collection[str] = (),
        raise_at: float | None = None,
        clear_at: float | None = None,
    ) -> None:
        if not 0 <= port <= 65535:
            raise UserError(f"page: expected a port from 0 to 65535, got {port}")
        self._family, self._address = _address(host, port)
        loopback = ipaddress.ip_address(self._address[0].partition("%")[0]).is_loopback
        if token is None and not loopback:
            raise UserError(
                f"page: other computers can reach {host}, so it needs a token of at least {SHORTEST_TOKEN} "
                "characters; give one (http_token_file), or leave the host at 127.0.0.1"
            )
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise UserError(f"page: expected a token of at least {SHORTEST_TOKEN} characters, got {len(token)}")
        own = {"localhost", host, *names} if loopback else {"localhost", host, *names, *_own_names()}
        self._access = Access(frozenset(name.lower() for name in own), loopback, token)
        self._board, self._host, self._levels = board, host, (raise_at, clear_at)
        self._listener: Listener | None = None

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        port = self._listener.server_address[1] if self._listener else self._address[1]
        host = _own_names()[0] if ipaddress.ip_address(self._address[0]).is_unspecified else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def __enter__(self) -> Page:
        served = Served(self._board, self._access, self._levels, packaged(), Tiles(self._board))
        try:
            self._listener = Listener(self._family, self._address, partial(Answers, served))
        except OSError as error:
            raise UserError(_unusable(error, self._host, self._address[1])) from error
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.2,), name="page", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.stop()
            self._thread.join()
            self._listener = None


def _address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError) as error:
        raise UserError(f"page: there is no host {host!r} ({error}); give an address of this computer") from error
    if not found:
        raise UserError("page: expected a host such as 127.0.0.1 or 0.0.0.0, got an empty one")
    family, _, _, _, address = found[0]
    return family, address


def _own_names() -> list[str]:
    name = socket.gethostname()
    return [name, f"{name}.local"]


def _unusable(error: OSError, host: str, port: int) -> str:
    where = f"page: cannot serve at {host}, port {port}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where}: another program does already; end it, or choose another port (0 finds a free one)"
        case errno.EACCES | errno.EPERM:
            return f"{where}: ports below 1024 need the rights of an administrator; choose another, such as 8080"
        case errno.EADDRNOTAVAIL:
            return f"{where}: that is no address of this computer; choose one of its own, or 127.0.0.1"
    return f"{where} ({error.strerror or error}); choose another"
