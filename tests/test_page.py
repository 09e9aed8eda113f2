"""The page: asked by HTTP, and looked at in a browser."""

from __future__ import annotations

import errno
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from probes import LONG, until

from benchmarks.chromium import PROGRAM, Chromium, chromium
from fml_lightning.errors import UserError
from fml_lightning.live.board import MachineDetail, MachineView
from fml_lightning.live.event import Event
from fml_lightning.live.page import Page, answers, listener, messages, server

MINUTE = 60_000_000
START = 1_790_000_000_000_000  # µs
TOKEN = "0123456789abcdef-token"
FOLDER = Path(server.__file__).parent
HOSTILE = '<img src=x onerror="document.title=1">&"\'/%2e'


def view(machine: str, health: str, **changes: Any) -> MachineView:
    """One machine of plant1; whatever is not told is as of a machine that runs well."""
    usual: dict[str, Any] = {
        "site": "plant1",
        "machine": machine,
        "health": health,
        "reason": "",
        "since": START,
        "fault": "",
        "confidence": None,
        "score": 0.05,
        "trend": tuple((START + i * MINUTE, 0.05) for i in range(10)),
        "last_data": START + 10 * MINUTE,
        "version": "v1",
        "alarm": "normal",
        "last_alarm": None,
        "acknowledged": False,
        "shelved_until": None,
        "shelved_reason": "",
    }
    return MachineView(**usual | changes)


FIRING = view(
    "Mill fan",
    "FAILURE",
    reason="The score is above 0.80.",
    fault="outer",
    confidence=0.914,
    score=0.97,
    version="v3",
    alarm="firing",
    last_alarm=START + 5 * MINUTE,
)
VIEWS = (
    FIRING,
    view(HOSTILE, "CHECK_FUNCTION", reason=HOSTILE, version="", score=None, trend=(), last_data=None, since=None),
    view("Pump 7", "NORMAL"),
)


class SmallBoard:
    """Three machines, and what was asked of them."""

    def __init__(self, *views: MachineView) -> None:
        self.machines = {(one.site, one.machine): one for one in views or VIEWS}
        self.asked: list[tuple[Any, ...]] = []
        self.revision = 0
        self.wrong: list[str] = []
        self.changed = threading.Condition()

    def views(self) -> list[MachineView]:
        return list(self.machines.values())

    def detail(self, site: str, machine: str) -> MachineDetail | None:
        if (site, machine) not in self.machines:
            return None
        return MachineDetail(
            view=self.machines[site, machine],
            scores=(
                (START - 120 * MINUTE, 1.0),
                (START, 0.1),
                (START + 1_500_000, 0.98765),
                (START + 2_000_000, float("nan")),
            ),
            frequencies=(0.0, 10.0, 20.0),
            spectrum=(-20.0, 3.456, float("-inf")),
            baseline=(-20.0, -21.0, -22.0),
            fault_lines=(("BPFO", 10.5),),
            alarms=(
                Event(3, START + 6 * MINUTE, "acknowledged", "x" * 400),
                Event(2, START + 5 * MINUTE, "raised", "above 0.80"),
                Event(1, START, "cleared", ""),
            ),
        )

    def acknowledge(self, site: str, machine: str, who: str) -> None:
        if (site, machine) not in self.machines:
            raise UserError(f"watch: there is no machine {site}/{machine}; see fml watch")
        self.asked.append(("acknowledge", site, machine, who))
        self.change(self.machines[site, machine], acknowledged=True)

    def shelve(self, site: str, machine: str, seconds: float, reason: str, who: str) -> None:
        if reason == "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        self.asked.append(("shelve", site, machine, seconds, reason, who))
        until = time.time_ns() // 1000 + int(seconds * 1e6) if seconds else None
        self.change(self.machines[site, machine], shelved_until=until, shelved_reason=reason)

    def problems(self) -> list[str]:
        return list(self.wrong)

    def wait(self, revision: int, timeout: float) -> int:
        with self.changed:
            self.changed.wait_for(lambda: self.revision != revision, timeout)
            return self.revision

    def change(self, machine: MachineView, **changes: Any) -> None:
        with self.changed:
            self.machines[machine.site, machine.machine] = msgspec.structs.replace(machine, **changes)
            self.revision += 1
            self.changed.notify_all()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Page(SmallBoard(), port=0) as page:
        yield page


@pytest.fixture(scope="module")
def locked() -> Iterator[Page]:
    with Page(SmallBoard(), port=0, token=TOKEN) as page:
        yield page


def port(page: Page) -> int:
    return int(page.url.rstrip("/").rpartition(":")[2])


def ask(
    page: Page, path: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
) -> tuple[HTTPResponse, bytes]:
    """Ask as a program does, with exactly these headers besides Host and Content-Length."""
    with closing(HTTPConnection("127.0.0.1", port(page), timeout=LONG)) as connection:
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, headers or {})
        answer = connection.getresponse()
        return answer, answer.read()


def post(page: Page, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Ask as our own page does; underscores of headers' names are hyphens."""
    told = {"Content-Type": "application/json", "Origin": page.url.rstrip("/")}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    answer, content = ask(page, path, "POST", body, {name: value for name, value in told.items() if value})
    return answer.status, json.loads(content)


class Events:
    """The stream of changes."""

    def __init__(self, page: Page) -> None:
        self._connection = HTTPConnection("127.0.0.1", port(page), timeout=LONG)
        self._connection.request("GET", "/events")
        self.answer = self._connection.getresponse()

    def next(self) -> dict[str, Any]:
        """The next event."""
        line = self.answer.readline()
        assert line.startswith(b"data: "), line
        assert self.answer.readline() == b"\n"
        return dict(json.loads(line[6:]))

    def until(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The next event that is wanted."""
        while not wanted(event := self.next()):
            pass
        return event

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


# What is told


def test_the_stream_tells_all_machines_in_the_boards_order_then_only_what_changes() -> None:
    board = SmallBoard()
    with Page(board, port=0) as page, closing(Events(page)) as events:
        assert events.answer.getheader("Content-Type") == "text/event-stream"
        first = events.next()
        names = {tile["id"]: tile["machine"] for tile in first["tiles"]}
        assert [names[number] for number in first["order"]] == ["Mill fan", HOSTILE, "Pump 7"]
        fan = first["tiles"][0]
        assert fan["trend"] == [[round(1000 * i / 9), 5] for i in range(10)]
        assert fan["span"] == [START, START + 9 * MINUTE]
        assert (fan["score"], fan["confidence"], fan["version"]) == (0.97, 0.914, "v3")
        board.change(FIRING, acknowledged=True)
        second = events.until(lambda event: event["tiles"])
        assert [(tile["machine"], tile["acknowledged"]) for tile in second["tiles"]] == [("Mill fan", True)]
        assert "order" not in second
        board.machines = dict(reversed(list(board.machines.items())[1:]))
        board.change(board.machines["plant1", "Pump 7"])
        third = events.until(lambda event: "order" in event)
        assert [names[number] for number in third["order"]] == ["Pump 7", HOSTILE]
        assert third["tiles"] == []


def test_the_stream_tells_what_keeps_windows_from_being_scored_and_when_it_is_over() -> None:
    board = SmallBoard()
    with Page(board, port=0) as page, closing(Events(page)) as events:
        assert events.next()["problems"] == []
        board.wrong = ["nothing is scored: the disk is full"]
        assert events.until(lambda event: "problems" in event)["problems"] == board.wrong
        board.wrong = []
        assert events.until(lambda event: "problems" in event)["problems"] == []


def test_figures_that_move_all_the_time_are_told_less_often_than_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "PACE", 1e6)
    board = SmallBoard()
    with Page(board, port=0) as page, closing(Events(page)) as events:
        events.next()
        board.change(FIRING, score=0.5)
        board.change(VIEWS[2], reason="now in words", health="OFF_SPEC")
        told = events.until(lambda event: event["tiles"])
        assert [tile["machine"] for tile in told["tiles"]] == ["Pump 7"]


def test_an_own_view_has_columns_as_the_chart_takes_them(page: Page) -> None:
    answer, content = ask(page, "/machine?site=plant1&machine=Mill%20fan")
    told = json.loads(content)
    assert told["scores"] == [
        [START / 1e6 - 7200, START / 1e6, START / 1e6 + 1.5, START / 1e6 + 2],
        [1.0, 0.1, 0.9877, None],
    ]
    assert told["spectrum"] == [[0, 10, 20], [-20, 3.46, None], [-20, -21, -22]]
    assert told["fault_lines"] == [["BPFO", 10.5]]
    assert [alarm["what"] for alarm in told["alarms"]] == ["acknowledged", "raised", "cleared"]
    tag = answer.getheader("ETag")
    assert tag
    again, nothing = ask(page, "/machine?site=plant1&machine=Mill%20fan", headers={"If-None-Match": tag})
    assert (again.status, nothing) == (304, b"")
    assert ask(page, "/machine?site=plant1&machine=none")[0].status == 404
    assert ask(page, "/machine")[0].status == 404
    assert ask(page, "/machine?a&b&c&d&e")[0].status == 400


def test_what_is_asked_for_reaches_the_board_with_who_asked() -> None:
    board = SmallBoard()
    fan = {"site": "plant1", "machine": "Mill fan"}
    with Page(board, port=0) as page:
        assert post(page, "/acknowledge", fan | {"who": " Ada\n"}) == (200, {})
        assert post(page, "/shelve", fan | {"seconds": 3600, "reason": "bearing\x00 ordered"}) == (200, {})
        assert post(page, "/shelve", fan | {"seconds": 0}) == (200, {})
        status, told = post(page, "/acknowledge", fan | {"machine": "gone"})
        assert (status, told["error"]) == (422, "watch: there is no machine plant1/gone; see fml watch")
        for wrong in ({"seconds": 60}, {"seconds": -1, "reason": "x"}, {"seconds": "60", "reason": "x"}, {"a": 1}):
            assert post(page, "/shelve", fan | wrong)[0] == 422
        assert (
            post(page, "/shelve", b'{"site":"plant1","machine":"Mill fan","seconds":1e999,"reason":"x"}')[0] == 422
        )
        assert post(page, "/acknowledge", b"\xff{")[0] == 422
        assert post(page, "/acknowledge", b'{"site":"plant1","machine":"\xff"}')[0] == 422
    assert board.asked == [
        ("acknowledge", "plant1", "Mill fan", "Ada (page, 127.0.0.1)"),
        ("shelve", "plant1", "Mill fan", 3600.0, "bearing  ordered", "page, 127.0.0.1"),
        ("shelve", "plant1", "Mill fan", 0.0, "", "page, 127.0.0.1"),
    ]


def test_a_board_that_fails_is_an_answer_and_a_line_in_the_log(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"site": "plant1", "machine": "Mill fan", "seconds": 60, "reason": "disk"}
    with caplog.at_level(logging.ERROR):
        assert post(page, "/shelve", asked)[0] == 500
    assert "No space left" in caplog.text
    assert ask(page, "/")[0].status == 200


# Who is told


def test_files_come_with_a_policy_that_lets_nothing_else_in(page: Page) -> None:
    for name in ("", *(name for name in answers.FILES if not name.endswith(".html"))):
        answer, content = ask(page, f"/{name}")
        assert answer.status == 200, name
        assert content == (FOLDER / (name or "index.html")).read_bytes()
        policy = answer.getheader("Content-Security-Policy") or ""
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("Cross-Origin-Opener-Policy") == "same-origin"
    for name in ("index.html", "login.html"):
        text = (FOLDER / name).read_text()
        assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style|https?://", text)


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/%2e%2e/server.py",
        "/uplot/../server.py",
        "/server.py",
        "//etc/passwd",
        "/index.html",
        "/uplot/",
    ],
)
def test_nothing_is_served_but_the_pages_files(page: Page, path: str) -> None:
    assert ask(page, path)[0].status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("10.0.0.1", 421),
        ("", 421),
        ("[::1", 421),
        ("a@evil.example", 421),
    ],
)
def test_a_foreign_name_that_resolves_to_this_host_is_refused(page: Page, host: str, status: int) -> None:
    assert ask(page, "/", headers={"Host": host})[0].status == status
    if status != 200:
        assert ask(page, "/machine?site=plant1&machine=Mill%20fan", headers={"Host": host})[0].status == status


def test_requests_without_a_host_or_with_two_are_refused(page: Page) -> None:
    for head in (b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port(page)), LONG) as client:
            client.sendall(head)
            assert client.recv(100).startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
        ({"Transfer_Encoding": "chunked"}, 411),
        ({"Content_Length": "5000"}, 413),
        ({"Content_Length": "-1"}, 411),
    ],
)
def test_only_the_page_itself_may_ask_for_something(page: Page, headers: dict[str, str], status: int) -> None:
    asked = {"site": "plant1", "machine": "Mill fan"}
    assert post(page, "/acknowledge", asked, **headers)[0] == status


def test_without_the_token_nothing_is_told(locked: Page) -> None:
    answer, content = ask(locked, "/")
    assert answer.status == 401
    assert content == (FOLDER / "login.html").read_bytes()
    for path in ("/events", "/machine?site=plant1&machine=Mill%20fan", "/session"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": "a=b;;="}):
            assert ask(locked, path, headers=headers)[0].status == 401
    fan = {"site": "plant1", "machine": "Mill fan"}
    assert post(locked, "/acknowledge", fan)[0] == 401
    assert post(locked, "/login", {"token": TOKEN + "x"}) == (403, {"error": "That is not the token."})
    assert post(locked, "/login", {"token": TOKEN}, Origin="http://evil.example")[0] == 403


def test_the_token_once_gives_a_cookie_and_a_program_shows_it_each_time(
    locked: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"Content-Type": "application/json", "Origin": locked.url.rstrip("/")}
    answer, _ = ask(locked, "/login", "POST", {"token": TOKEN}, own)
    cookie, *attributes = (answer.getheader("Set-Cookie") or "").split("; ")
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert ask(locked, "/", headers={"Cookie": cookie})[1] == (FOLDER / "index.html").read_bytes()
    assert ask(locked, "/session", headers={"Cookie": f"other=1; {cookie}"})[0].status == 200
    name, _, value = cookie.partition("=")
    until, _, seal = value.partition(".")
    for forged in (f"{int(until) + 1}.{seal}", f"{until}.{seal[:-1]}", f"{until}.", f"x.{seal}", "", f"²{seal}"):
        headers = {"Cookie": f"{name}={forged}".encode().decode("latin-1")}
        assert ask(locked, "/session", headers=headers)[0].status == 401
    bearer = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    fan = {"site": "plant1", "machine": "Mill fan"}
    assert ask(locked, "/acknowledge", "POST", fan, bearer)[0].status == 200
    monkeypatch.setattr(answers.time, "time", lambda: float(until))
    assert ask(locked, "/session", headers={"Cookie": cookie})[0].status == 401


def test_two_pages_of_one_host_do_not_end_each_others_logins(locked: Page) -> None:
    """Cookies do not tell ports apart."""
    with Page(SmallBoard(), port=0, token="another-token-of-another-page") as other:
        names = []
        for page, token in ((locked, TOKEN), (other, "another-token-of-another-page")):
            own = {"Content-Type": "application/json", "Origin": page.url.rstrip("/")}
            answer, _ = ask(page, "/login", "POST", {"token": token}, own)
            names.append((answer.getheader("Set-Cookie") or "").partition("=")[0])
    assert len(set(names)) == 2
    assert not any(TOKEN in name for name in names)


def test_beyond_this_host_a_token_is_needed_and_its_own_addresses_are_served() -> None:
    with pytest.raises(UserError, match="needs a token of at least 16 characters"):
        Page(SmallBoard(), host="0.0.0.0")
    with pytest.raises(UserError, match="at least 16 characters, got 5"):
        Page(SmallBoard(), host="0.0.0.0", token="short")
    with Page(SmallBoard(), host="0.0.0.0", port=0, token=TOKEN, names=["watch.plant.example"]) as page:
        assert socket.gethostname() in page.url
        for host, status in (("10.0.0.1", 200), ("watch.plant.example", 200), ("evil.example", 421)):
            headers = {"Authorization": f"Bearer {TOKEN}", "Host": host}
            assert ask(page, "/", headers=headers)[0].status == status


# What cannot be served


def test_a_port_that_cannot_be_used_is_one_sentence(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"127.0.0.1, port {port(page)}: another program does already"):
        Page(SmallBoard(), port=port(page)).__enter__()
    with pytest.raises(UserError, match="that is no address of this computer"):
        Page(SmallBoard(), host="192.0.2.1", port=0, token=TOKEN).__enter__()
    with pytest.raises(UserError, match="from 0 to 65535, got 65536"):
        Page(SmallBoard(), port=65536)
    with pytest.raises(UserError, match="there is no host 'no such host'"):
        Page(SmallBoard(), host="no such host")
    with pytest.raises(UserError, match="got an empty one"):
        Page(SmallBoard(), host="")

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listener.Listener, "server_bind", refuse)
    with pytest.raises(UserError, match="port 80: ports below 1024 need the rights of an administrator"):
        Page(SmallBoard(), port=80).__enter__()


# Clients that are slow, many or wrong


def closed(client: socket.socket) -> bool:
    """Whether the server ends the connection, waited for."""
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_request_that_does_not_come_or_never_ends_is_given_up(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 0.2)
    for part in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
        with socket.create_connection(("127.0.0.1", port(page)), LONG) as client:
            client.sendall(part)
            assert closed(client)
    head = f"POST /acknowledge HTTP/1.1\r\nHost: 127.0.0.1:{port(page)}\r\nOrigin: {page.url.rstrip('/')}\r\n"
    with socket.create_connection(("127.0.0.1", port(page)), LONG) as client:
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode())
        assert closed(client)


def test_headers_without_an_end_take_no_memory(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", port(page)), LONG) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        try:
            for i in range(1000):
                client.sendall(b"X-%d: " % i + b"x" * 1000 + b"\r\n")
        except OSError:
            return
        assert closed(client)


def test_as_many_as_there_is_room_for_are_served_and_one_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", LONG)  # the first one stays until the last one has come
    with Page(SmallBoard(), port=0) as page:
        idle = [socket.create_connection(("127.0.0.1", port(page)), LONG) for _ in range(listener.CONNECTIONS)]
        with socket.create_connection(("127.0.0.1", port(page)), LONG) as one_more:
            assert one_more.recv(100).startswith(b"HTTP/1.1 503 ")
        for client in idle:
            client.close()
        until(lambda: try_ask(page) == 200)


def test_no_other_computer_takes_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", LONG)  # the first one stays until the last one has come
    with Page(SmallBoard(), port=0) as page:
        far = SimpleNamespace(is_loopback=False, is_unspecified=False)
        monkeypatch.setattr(listener.ipaddress, "ip_address", lambda text: far)
        idle = [socket.create_connection(("127.0.0.1", port(page)), LONG) for _ in range(listener.FROM_ONE)]
        with socket.create_connection(("127.0.0.1", port(page)), LONG) as one_more:
            assert one_more.recv(100).startswith(b"HTTP/1.1 503 ")
        monkeypatch.undo()
        assert ask(page, "/")[0].status == 200  # another, or this one
        for client in idle:
            client.close()


def try_ask(page: Page) -> int | None:
    try:
        return ask(page, "/")[0].status
    except OSError:
        return None


def test_streams_leave_room_for_short_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "STREAMS", 1)
    with Page(SmallBoard(), port=0) as page, closing(Events(page)) as events:
        events.next()
        answer, content = ask(page, "/events")
        assert (answer.status, json.loads(content)["error"]) == (503, "1 browsers watch already; close one.")
        assert ask(page, "/")[0].status == 200


def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread ends, and nothing has waited for it in memory."""
    monkeypatch.setattr(answers, "SEND_SECONDS", 0.2)
    many = [view(f"Pump {i}", "NORMAL", reason="x" * 10_000) for i in range(2000)]
    with Page(SmallBoard(*many), port=0) as page, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port(page)))
        client.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert page._listener
        until(lambda: page._listener and not page._listener._open)


def test_the_page_ends_with_its_context_whoever_watches() -> None:
    before = set(threading.enumerate())
    with Page(SmallBoard(), port=0) as page:
        events = Events(page)
        events.next()
        quiet = socket.create_connection(("127.0.0.1", port(page)), LONG)
    with closing(events), quiet:
        assert closed(quiet)
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
        assert not thread.is_alive()


# What is seen


def luminance(colour: str) -> float:
    """Relative luminance, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_are_told_from_what_they_lie_on(scheme: int) -> None:
    """WCAG AA: text 4.5 to 1, shapes and edges of controls 3 to 1."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    rules = re.findall(r":root \{(.*?)\}", (FOLDER / "page.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", rules[scheme]))
    assert len(rules) == 2
    health = ("failure", "check", "off", "maintenance", "normal")
    for text in ("text", "soft", "link", "plot", "mark", *health):
        for ground in ("card", "back"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["card"], colours["link"]) >= 4.5  # a button's words
    for shape in health:
        assert contrast(colours["sign"], colours[shape]) >= 4.5
    assert contrast(colours["edge"], colours["card"]) >= 3
    assert contrast(colours["edge"], colours["back"]) >= 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    if PROGRAM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with chromium() as browser:
        yield browser


@pytest.fixture
def calm(browser: Chromium) -> Iterator[Chromium]:
    """The browser, which must have asked for nothing elsewhere and complained of nothing."""
    browser.requests.clear()
    browser.complaints.clear()
    browser.size(1200, 860)
    yield browser
    browser.open("about:blank")
    assert browser.requests
    assert all(address.startswith(("http://127.0.0.1:", "about:blank")) for address in browser.requests)
    assert browser.complaints == []


RENDERED = "document.querySelectorAll('.tile')[0].innerText"
"""True once the tiles on the screen are drawn: until then they have no visible text (content-visibility)."""
TILES = "[...document.querySelectorAll('.tile')].map((tile) => tile.querySelector('.machine').textContent)"


def test_the_overview_has_the_worst_first_with_word_shape_and_reason(calm: Chromium, page: Page) -> None:
    calm.open(page.url)
    calm.wait(f"({TILES}).length === 3")
    assert calm.evaluate(TILES) == ["Mill fan", HOSTILE, "Pump 7"]
    calm.wait(RENDERED)
    fan, unknown, pump = calm.evaluate("[...document.querySelectorAll('.tile')].map((tile) => tile.innerText)")
    for words in ("Failure", "The score is above 0.80.", "Likely outer, 91 %", "plant1", "v3", "0.97"):
        assert words in fan
    assert "no model" in unknown
    assert "not scored" in unknown
    assert HOSTILE in unknown  # as text
    assert "Normal" in pump
    uses = "[...document.querySelectorAll('.tile use')].map((use) => use.getAttribute('href'))"
    assert calm.evaluate(uses) == ["#FAILURE", "#NONE", "#NORMAL"]
    assert calm.evaluate("document.title") == "(2) Machines"
    assert calm.evaluate("document.querySelectorAll('img').length") == 0
    calm.evaluate("document.getElementById('words').focus()")
    calm.type("pump")
    calm.wait("document.getElementById('found').textContent === '1 of 3 shown'")
    shown = "[...document.querySelectorAll('.tile:not([hidden]) .machine')].map((node) => node.textContent)"
    assert calm.evaluate(shown) == ["Pump 7"]


def test_an_alarm_is_acknowledged_and_shelved_by_keyboard(calm: Chromium) -> None:
    board = SmallBoard()
    focus = "document.activeElement.id || document.activeElement.className"
    caption = "document.querySelector('#scores figcaption').textContent"
    done = "document.getElementById('done').textContent"

    def tab_to(wanted: str) -> None:
        for _ in range(30):
            calm.press("Tab")
            if calm.evaluate(focus) == wanted:
                # What has the focus shows it.
                part = "'::after'" if wanted == "link" else "null"
                ring = f"getComputedStyle(document.activeElement, {part}).outlineStyle"
                assert calm.evaluate(ring) == "solid"
                return
        raise AssertionError(f"Tab never reaches {wanted}")

    with Page(board, port=0, raise_at=0.8, clear_at=0.3) as page:
        calm.open(page.url)
        calm.wait(f"({TILES}).length === 3")
        calm.press("Tab")
        assert calm.evaluate(focus) == "skip"
        calm.press("Enter")
        assert calm.evaluate(focus) == "main"
        tab_to("link")
        calm.press("Enter")
        calm.wait("document.querySelectorAll('canvas').length === 2")
        assert calm.evaluate(focus) == "name"
        seen = calm.evaluate("document.getElementById('machine').innerText")
        for words in ("Mill fan", "BPFO 10.5 Hz", "above 0.80", "raised", "cleared", "raised at 80 %"):
            assert words in seen
        tab_to("who")
        calm.type("Ada")
        tab_to("acknowledge")
        calm.press("Enter")
        calm.wait("document.getElementById('acknowledge').hidden")
        calm.wait(f"{done} === 'Acknowledged.'")  # which may come after the change, and with it the focus
        tab_to("reason")
        calm.type("spare runs")
        calm.press("Enter")
        calm.wait("!document.getElementById('unshelve').hidden")
        calm.wait(f"{done}.startsWith('Shelved for ')")
        assert "until" in calm.evaluate("document.getElementById('state').innerText")
        # Of two hours in spans of 36 s: (0.1 + 0.9877) / 2 in the last one.
        assert "highest 100 %, last 54 %" in calm.evaluate(caption)
        tab_to("span")
        calm.evaluate("document.getElementById('span').value = '3600'")
        calm.evaluate("document.getElementById('span').dispatchEvent(new Event('change'))")
        calm.wait(f"{caption}.includes('highest 99 %, last 99 %')")  # of its last hour, in spans of 10 ms
        tab_to("unshelve")
        calm.press(" ")
        calm.wait("document.getElementById('unshelve').hidden")
        calm.wait(f"{done} === 'Shelving has ended.'")
        calm.evaluate("document.querySelector('.back').focus()")
        calm.press("Enter")
        calm.wait("document.getElementById('machine').hidden")
        assert calm.evaluate(focus) == "link"  # back at the tile one came from
        calm.open("about:blank")
    who = "Ada (page, 127.0.0.1)"
    assert board.asked == [
        ("acknowledge", "plant1", "Mill fan", who),
        ("shelve", "plant1", "Mill fan", 28800.0, "spare runs", who),
        ("shelve", "plant1", "Mill fan", 0.0, "", who),
    ]


def test_only_tiles_that_change_are_drawn_and_the_order_follows(calm: Chromium) -> None:
    board = SmallBoard()
    with Page(board, port=0) as page:
        calm.open(page.url)
        calm.wait(f"({TILES}).length === 3")
        calm.evaluate("document.querySelectorAll('.link')[2].focus()")
        calm.evaluate(
            "window.seen = new Set(); new MutationObserver((changes) => changes.forEach((change) => seen.add("
            "change.target.closest?.('.tile')?.querySelector('.machine').textContent ?? 'list')))"
            ".observe(document.getElementById('tiles'), {subtree: true, childList: true, attributes: true})"
        )
        board.machines = {key: board.machines[key] for key in sorted(board.machines, reverse=True)}
        board.change(VIEWS[2], health="FAILURE", reason="It stands.")
        calm.wait(f"({TILES})[0] === 'Pump 7'")
        assert calm.evaluate(TILES) == ["Pump 7", "Mill fan", HOSTILE]
        assert set(calm.evaluate("[...seen]")) == {"Pump 7", "list"}
        assert calm.evaluate("document.activeElement === document.querySelectorAll('.link')[0]")
        calm.wait("document.getElementById('news').textContent === 'Pump 7: Failure. It stands.'")
        calm.open("about:blank")


def test_a_thousand_machines_are_found_by_their_words(calm: Chromium) -> None:
    many = [view(f"Pump {i}", "NORMAL") for i in range(1000)]
    with Page(SmallBoard(*many), port=0) as page:
        calm.open(page.url)
        calm.wait(f"({TILES}).length === 1000")
        calm.evaluate("document.getElementById('words').focus()")
        calm.type("pump 77")
        calm.wait(
            "document.getElementById('found').textContent === '19 of 1000 shown'"
        )  # ten end so, ten begin so, 777 does both
        calm.type("0")
        calm.wait("document.getElementById('found').textContent === '1 of 1000 shown'")
        calm.type(" mill")
        calm.wait("document.getElementById('empty').textContent === 'No machine is as you ask.'")
        calm.open("about:blank")


def test_the_page_says_that_it_has_no_connection_and_finds_the_server_again(browser: Chromium) -> None:
    browser.size(1200, 860)
    with Page(SmallBoard(), port=0) as page:
        number = port(page)
        browser.open(page.url)
        browser.wait("document.getElementById('connection').textContent === 'Live'")
        browser.evaluate("document.querySelector('.link').focus()")
    browser.wait("/^No connection since \\d\\d:\\d\\d/.test(document.getElementById('connection').textContent)")
    assert browser.evaluate(TILES) == ["Mill fan", HOSTILE, "Pump 7"]  # what was seen stays
    with Page(SmallBoard(*reversed(VIEWS)), port=number):
        browser.wait("document.getElementById('connection').textContent === 'Live'")
        assert browser.evaluate(TILES) == ["Pump 7", HOSTILE, "Mill fan"]
        focused = "document.activeElement.querySelector('.machine')?.textContent"
        assert browser.evaluate(focused) == "Mill fan"  # its tile is the one that was
        browser.open("about:blank")


def test_the_page_says_that_nothing_is_scored_or_published(browser: Chromium) -> None:
    board = SmallBoard()
    shown = "document.getElementById('problems').hidden ? '' : document.getElementById('problems').textContent"
    with Page(board, port=0) as page:
        browser.open(page.url)
        browser.wait("document.getElementById('connection').textContent === 'Live'")
        assert browser.evaluate(shown) == ""
        board.wrong = ["nothing is scored: the disk is full", "health is not published: no broker"]
        browser.wait(f"({shown}) !== ''")
        expected = "Nothing is scored: the disk is full. Health is not published: no broker."
        assert browser.evaluate(shown) == expected
        board.wrong = []
        browser.wait(f"({shown}) === ''")
        browser.open("about:blank")


def test_one_logs_in_once(browser: Chromium, locked: Page) -> None:
    browser.open(locked.url)
    browser.wait("document.activeElement.id === 'token'")
    browser.type("wrong")
    browser.press("Enter")
    browser.wait("document.getElementById('done').textContent === 'That is not the token.'")
    browser.evaluate("document.getElementById('token').value = ''")
    browser.type(TOKEN)
    browser.press("Enter")
    browser.wait(f"({TILES}).length === 3")
    assert browser.evaluate("document.cookie") == ""  # no script can read it
    browser.open(locked.url)
    browser.wait(f"({TILES}).length === 3")
    browser.open("about:blank")


def test_who_is_quicker_than_the_line_logs_in(browser: Chromium, locked: Page) -> None:
    browser.call("Network.clearBrowserCookies")
    browser.call("Fetch.enable", patterns=[{"urlPattern": "*/session"}])  # its answer does not come
    browser.open(locked.url)
    browser.wait("document.activeElement.id === 'token'")
    browser.type(TOKEN)
    browser.press("Enter")
    browser.wait(f"({TILES}).length === 3")
    browser.call("Fetch.disable")
    browser.open("about:blank")


def test_a_name_cannot_turn_round_hide_or_push_aside_what_stands_beside_it(calm: Chromium) -> None:
    long = "gearbox-" * 60
    board = SmallBoard(
        view("pump\u202e7\u200b", "FAILURE", reason="is \u2066outer\x1b", fault="outer", alarm="recovering"),
        view("مضخة", "NORMAL", site="تهران"),
        view(long, "NORMAL", reason=long),
        view("", "NORMAL", site=""),
    )
    with Page(board, port=0) as page:
        calm.size(390, 844)
        calm.open(page.url)
        calm.wait(f"({TILES}).length === 4")
        assert calm.evaluate(TILES) == ["pump\\u202e7\\u200b", "مضخة", long, "(no name)"]
        calm.wait(RENDERED)
        tiles = calm.evaluate("[...document.querySelectorAll('.tile')].map((tile) => tile.innerText)")
        assert "Is \\u2066outer\\u001b" in tiles[0]
        assert "Likely" not in tiles[0]  # it is over
        assert calm.evaluate("getComputedStyle(document.querySelector('.site')).unicodeBidi") == "isolate"
        height = "[...document.querySelectorAll('.tile')].map((tile) => tile.offsetHeight)"
        assert max(calm.evaluate(height)) < 500
        for i in range(4):
            calm.evaluate(f"location.hash = document.querySelectorAll('.link')[{i}].getAttribute('href')")
            calm.wait("document.querySelectorAll('canvas').length === 2")
            assert calm.evaluate("document.documentElement.scrollWidth <= 390")
            calm.evaluate("location.hash = '#/'")
            calm.wait("document.getElementById('machine').hidden")
        calm.open("about:blank")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(
    calm: Chromium, page: Page, scheme: str, tmp_path: Path
) -> None:
    calm.size(320, 640, scheme)
    calm.open(page.url)
    calm.wait(f"({TILES}).length === 3")
    ground = {"light": "rgb(244, 245, 247)", "dark": "rgb(20, 23, 27)"}[scheme]
    assert calm.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    fits = "document.documentElement.scrollWidth <= 320"
    assert calm.evaluate(fits)
    calm.picture(tmp_path / "overview.png")
    calm.evaluate("location.hash = document.querySelector('.link').getAttribute('href')")
    calm.wait("document.querySelectorAll('canvas').length === 2")
    assert calm.evaluate(fits)
    calm.picture(tmp_path / "machine.png", whole=True)
    calm.evaluate("window.old = document.querySelector('canvas')")
    calm.size(320, 640, "dark" if scheme == "light" else "light")
    calm.wait("document.querySelectorAll('canvas').length === 2 && !old.isConnected")  # drawn in other colours
    assert (tmp_path / "machine.png").read_bytes().startswith(b"\x89PNG")
