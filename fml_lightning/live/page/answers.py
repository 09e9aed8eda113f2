"""What the page answers: its files, the stream of changes, one machine's own view, and what somebody asks for."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from io import BufferedReader
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import parse_qs

import msgspec

from fml_lightning.errors import UserError
from fml_lightning.live.board import Board
from fml_lightning.live.page.access import Access
from fml_lightning.live.page.listener import CONNECTIONS, SEND_SECONDS, Incoming, Listener
from fml_lightning.live.page.messages import Tiles, detail, stream

_log = logging.getLogger(__name__)

STREAMS = CONNECTIONS // 2
"""Browsers that are told of changes at a time; the other connections stay free for short requests."""
BODY_BYTES = 4096
"""Of what a browser asks for at most."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""With every answer: nothing runs or loads but what this server sent, and no other site may show or read it."""

TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
FILES = [
    "index.html",
    "login.html",
    "login.js",
    "page.js",
    "machine.js",
    "charts.js",
    "words.js",
    "page.css",
    "icon.svg",
    "uplot/uPlot.iife.min.js",
    "uplot/uPlot.min.css",
]
"""All that can be asked for by name, beside this module."""


class File(NamedTuple):
    """A file as it is sent."""

    kind: str
    content: bytes
    tag: str


@dataclass(frozen=True)
class Served:
    """What all requests share."""

    board: Board
    access: Access
    levels: tuple[float | None, float | None]
    """Scores at which alarms are raised and clear, where known."""
    files: dict[str, File]
    tiles: Tiles
    streams: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(STREAMS))

    @property
    def edition(self) -> str:
        """Of the files: a browser that has others loads them anew."""
        return sha256("".join(file.tag for file in self.files.values()).encode()).hexdigest()[:16]


class Acknowledge(msgspec.Struct, forbid_unknown_fields=True):
    """Somebody knows of a machine's alarm."""

    site: Annotated[str, msgspec.Meta(max_length=500)]
    machine: Annotated[str, msgspec.Meta(max_length=500)]
    who: Annotated[str, msgspec.Meta(max_length=60)] = ""


class Shelve(Acknowledge, kw_only=True):
    """A machine's alarms are not to be told for some time."""

    seconds: Annotated[float, msgspec.Meta(ge=0)]
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """A browser shows the token."""

    token: str


def packaged() -> dict[str, File]:
    """The page's files by name."""
    folder = files(__package__ or "")
    contents = {name: folder.joinpath(*name.split("/")).read_bytes() for name in FILES}
    return {
        name: File(
            f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8", content, f'"{sha256(content).hexdigest()[:32]}"'
        )
        for name, content in contents.items()
    }


Asked = TypeVar("Asked", Acknowledge, Shelve, Login)


class _Refusal(Exception):  # noqa: N818  # it is an answer, not an error of ours
    """An answer that says why not."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Answers(BaseHTTPRequestHandler):
    """Answers one request, then closes: no connection is kept for what may never come."""

    server: Listener
    protocol_version = "HTTP/1.1"

    _begun = False
    """Whether an answer is on its way, so that none can be added."""

    def __init__(self, served: Served, *connection: Any) -> None:
        self.served = served
        super().__init__(*connection)

    def setup(self) -> None:
        """Read within bounds."""
        super().setup()
        self.rfile.close()
        self.rfile = BufferedReader(Incoming(self.connection))

    def version_string(self) -> str:
        """Say no more of ourselves than needed."""
        return "fml"

    def log_message(self, format: str, *args: Any) -> None:
        """Note a request where details are logged."""
        _log.debug("page: %s: %r", self.client_address[0], format % args)

    def end_headers(self) -> None:
        """Add what goes with every answer."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.connection.settimeout(SEND_SECONDS)
        self._begun = True
        super().end_headers()

    def do_GET(self) -> None:
        """Files, the stream of changes, and one machine's own view."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """What somebody asks for."""
        self._answer(self._post)

    def _answer(self, method: Callable[[str, str], None]) -> None:
        path, _, query = self.path.partition("?")
        try:
            if not self.served.access.is_own_host(self.headers):
                raise _Refusal(HTTPStatus.MISDIRECTED_REQUEST, "This page is not served by that name.")
            method(path, query)
        except _Refusal as refusal:
            self._send_json(refusal.status, {"error": str(refusal)})
        except UserError as error:
            self._send_json(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            raise  # the client has gone, or is too slow
        except Exception:
            if self._begun:
                raise
            _log.exception("page: %s failed", path)
            self._send_json(
                HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "The watch failed to answer; see its log."}
            )

    def _get(self, path: str, query: str) -> None:
        if path == "/":
            if self.served.access.admits(self.headers, time.time()):
                self._send(HTTPStatus.OK, self.served.files["index.html"])
            else:
                self._send(HTTPStatus.UNAUTHORIZED, self.served.files["login.html"])
        elif (name := path.removeprefix("/")) in self.served.files and not name.endswith(".html"):
            self._send(HTTPStatus.OK, self.served.files[name])
        elif path in ("/events", "/machine", "/session"):
            self._need_admission()
            if path == "/events":
                self._send_events()
            elif path == "/machine":
                self._send_machine(query)
            else:
                self._send_json(HTTPStatus.OK, {})
        else:
            raise _Refusal(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _post(self, path: str, query: str) -> None:
        if path not in ("/login", "/acknowledge", "/shelve"):
            raise _Refusal(HTTPStatus.NOT_FOUND, "There is no such page.")
        if not self.served.access.is_same_origin(self.headers):
            raise _Refusal(HTTPStatus.FORBIDDEN, "Only this page itself may ask for that.")
        if path == "/login":
            if not self.served.access.is_token(self._body(Login).token):
                raise _Refusal(HTTPStatus.FORBIDDEN, "That is not the token.")
            self._send_json(HTTPStatus.OK, {}, {"Set-Cookie": self.served.access.login(self.headers, time.time())})
            return
        self._need_admission()
        if path == "/acknowledge":
            asked = self._body(Acknowledge)
            self.served.board.acknowledge(asked.site, asked.machine, self._who(asked))
        else:
            shelve = self._body(Shelve)
            reason = _printable(shelve.reason)
            if not math.isfinite(shelve.seconds) or (shelve.seconds and not reason):
                raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "Shelving needs a number of seconds and a reason.")
            self.served.board.shelve(shelve.site, shelve.machine, shelve.seconds, reason, self._who(shelve))
        self._send_json(HTTPStatus.OK, {})

    def _need_admission(self) -> None:
        if self.served.access.is_foreign(self.headers):
            raise _Refusal(HTTPStatus.FORBIDDEN, "Only this page itself may ask for that.")
        if not self.served.access.admits(self.headers, time.time()):
            raise _Refusal(HTTPStatus.UNAUTHORIZED, "Show the token first.")

    def _who(self, asked: Acknowledge) -> str:
        address, name = self.client_address[0], _printable(asked.who)
        return f"{name} (page, {address})" if name else f"page, {address}"

    def _body(self, kind: type[Asked]) -> Asked:
        """The request's body, read and checked."""
        if (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower() != "application/json":
            raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Expected application/json.")
        length = self.headers.get("Content-Length") or ""
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "Expected a Content-Length.")
        if len(length) > 9 or int(length) > BODY_BYTES:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected at most {BODY_BYTES} bytes.")
        try:
            return msgspec.json.decode(self.rfile.read(int(length)), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error

    def _send_machine(self, query: str) -> None:
        try:
            asked = parse_qs(query, keep_blank_values=True, max_num_fields=4)
        except ValueError as error:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "Expected a site and a machine.") from error
        shown = self.served.board.detail(asked.get("site", [""])[0], asked.get("machine", [""])[0])
        if shown is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "There is no such machine any more.")
        content = detail(shown, self.served.levels)
        self._send(HTTPStatus.OK, File("application/json", content, f'"{sha256(content).hexdigest()[:32]}"'))

    def _send_events(self) -> None:
        """Tell a browser of changes until it or the page ends."""
        if not self.served.streams.acquire(blocking=False):
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{STREAMS} browsers watch already; close one.")
        try:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Accel-Buffering", "no")  # so that a proxy passes events on at once
            self.end_headers()
            for event in stream(
                self.served.tiles, self.served.board, {"files": self.served.edition}, self.server.stopping
            ):
                self.wfile.write(event)
        finally:
            self.served.streams.release()

    def _send_json(self, status: HTTPStatus, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, File("application/json", msgspec.json.encode(value), ""), headers)

    def _send(self, status: HTTPStatus, file: File, headers: dict[str, str] | None = None) -> None:
        known = bool(file.tag) and status == HTTPStatus.OK and self.headers.get("If-None-Match") == file.tag
        self.send_response(HTTPStatus.NOT_MODIFIED if known else status)
        self.send_header("Cache-Control", "no-cache" if file.tag else "no-store")
        if file.tag:
            self.send_header("ETag", file.tag)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if not known:
            self.send_header("Content-Type", file.kind)
            self.send_header("Content-Length", str(len(file.content)))
        self.end_headers()
        if not known:
            self.wfile.write(file.content)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text).strip()
