"""The link between two processes of a host: private, bounded in bytes and time, and only for who knows the key."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from probes import LONG

from fml_lightning import UserError
from fml_lightning.executors.nvflare import local_link
from fml_lightning.executors.nvflare.local_link import (
    KEY,
    SERVER_SOCKET,
    Link,
    LinkError,
    Listener,
    connect,
    listen,
)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with listen(tmp_path / "server", SERVER_SOCKET) as made:
        yield made


def met(listener: Listener, folder: Path) -> tuple[Link, Link]:
    """Both ends of a new link."""
    came: list[Link] = []
    waiting = threading.Thread(target=lambda: came.append(listener.accept(LONG)))
    waiting.start()
    link = connect(folder, SERVER_SOCKET)
    waiting.join()
    return link, came[0]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_messages_pass_both_ways_and_the_end_is_seen(listener: Listener, tmp_path: Path) -> None:
    link, other = met(listener, tmp_path / "server")
    large = os.urandom(3_000_000)
    sending = threading.Thread(target=link.send, args=(large,))
    sending.start()
    assert other.receive(LONG) == large
    sending.join()
    other.send(b"")
    assert link.receive(LONG) == b""
    with pytest.raises(TimeoutError):
        link.receive(0.0)
    other.send(b"still good")
    assert link.receive(LONG) == b"still good"
    other.close()
    other.close()
    with pytest.raises(LinkError):
        link.receive(LONG)
    with pytest.raises(LinkError):
        link.send(b"x")


def test_nobody_else_may_read_anything(listener: Listener, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    assert [mode(path) for path in (folder, folder / SERVER_SOCKET, folder / KEY)] == [0o700, 0o600, 0o600]


def test_an_open_folder_is_shut(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with listen(tmp_path, SERVER_SOCKET):
        assert mode(tmp_path) == 0o700


def test_a_stranger_is_refused_and_the_next_one_comes_in(listener: Listener, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    key = (folder / KEY).read_bytes()
    refused: list[BaseException] = []

    def strangers() -> None:
        (folder / KEY).write_bytes(bytes(32))
        try:
            connect(folder, SERVER_SOCKET)
        except LinkError as error:
            refused.append(error)
        finally:
            (folder / KEY).write_bytes(key)
        with socket.socket(socket.AF_UNIX) as noise:
            noise.connect(str(folder / SERVER_SOCKET))
            noise.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        connect(folder, SERVER_SOCKET).send(b"me")

    coming = threading.Thread(target=strangers)
    coming.start()
    assert listener.accept(LONG).receive(LONG) == b"me"
    coming.join()
    assert "does not know the key" in str(refused[0])


def test_a_silent_stranger_is_given_up(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_link, "PATIENCE", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(tmp_path / "server" / SERVER_SOCKET))
        with pytest.raises(TimeoutError):
            listener.accept(1.0)


def test_a_listener_that_hangs_is_given_up(listener: Listener, tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError):  # nobody accepts
        connect(tmp_path / "server", SERVER_SOCKET, patience=0.2)


def test_a_message_that_is_too_long_ends_the_link(listener: Listener, tmp_path: Path) -> None:
    link, other = met(listener, tmp_path / "server")
    sending = threading.Thread(target=lambda: other.send(bytes(1001)))
    sending.start()
    with pytest.raises(LinkError):
        link.receive(LONG, most_bytes=1000)
    sending.join()
    with pytest.raises(LinkError):
        other.receive(LONG)


def test_a_peer_that_stops_halfway_is_given_up(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_link, "STALL", 0.2)
    link, other = met(listener, tmp_path / "server")
    os.write(other.fileno(), b"\0\0\1\0only the beginning")
    with pytest.raises(LinkError):
        link.receive(LONG)


def test_a_peer_that_does_not_read_is_given_up(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_link, "STALL", 0.2)
    link, _ = met(listener, tmp_path / "server")
    with pytest.raises(LinkError, match="does not read"):
        link.send(bytes(50_000_000))
    with pytest.raises(LinkError):  # and whoever waits for its answers is woken
        link.receive(LONG)


def test_threads_may_close_a_link_together(listener: Listener, tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def end(link: Link) -> None:
        try:
            link.close()
        except BaseException as error:
            faults.append(error)

    for _ in range(20):
        link, other = met(listener, tmp_path / "server")
        threads = [threading.Thread(target=end, args=(link,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other.close()
    assert not faults


def test_closing_wakes_whoever_accepts(listener: Listener, tmp_path: Path) -> None:
    ended: list[BaseException] = []

    def accept() -> None:
        try:
            listener.accept()
        except OSError as error:
            ended.append(error)

    waiting = threading.Thread(target=accept)
    waiting.start()
    listener.close()
    waiting.join(LONG)
    assert ended
    assert not (tmp_path / "server" / SERVER_SOCKET).exists()


def test_one_process_listens_and_the_socket_of_a_dead_one_is_taken_over(
    listener: Listener, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="another process listens there already"):
        listen(tmp_path / "server", SERVER_SOCKET)
    listener.close()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "server" / SERVER_SOCKET))
    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path / "server", SERVER_SOCKET)
    listen(tmp_path / "server", SERVER_SOCKET).close()


def test_where_nobody_listens_yet_it_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(tmp_path / "not_there", SERVER_SOCKET)
    with pytest.raises(FileNotFoundError):
        connect(tmp_path, SERVER_SOCKET)


def test_a_long_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at most 107 bytes, as sockets have, got \d+; use a folder"):
        listen(tmp_path / ("x" * 120), SERVER_SOCKET)
    with pytest.raises(UserError, match="at most 107 bytes"):
        connect(tmp_path / ("x" * 120), SERVER_SOCKET)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    for use in (listen, connect):
        with pytest.raises(UserError, match="run all processes of one folder as one user"):
            use(tmp_path, SERVER_SOCKET)


@pytest.mark.parametrize("spoil", [lambda key: key.write_bytes(b"short"), lambda key: key.chmod(0o644)])
def test_a_key_that_is_none_is_refused(spoil: object, tmp_path: Path) -> None:
    listen(tmp_path, SERVER_SOCKET).close()
    spoil(tmp_path / KEY)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"link\.key: expected a key of 32 bytes that its owner alone may read"):
        listen(tmp_path, SERVER_SOCKET)


def test_processes_that_start_together_find_one_key(tmp_path: Path) -> None:
    keys: list[bytes] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        keys.append(local_link._key(tmp_path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY]
