"""A TCP proxy that does to a line what the world does to lines: cuts, refuses, stalls and changes it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable


class Proxy:
    """Forwards a port of its own to another on this machine: `with Proxy(broker.port) as proxy: ...`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.accepted: list[float] = []
        """When each connection was taken (monotonic seconds)."""
        self.refusing = False
        """Take connections and end them at once, as a port map does whose container is away."""
        self.change: Callable[[bytes], bytes] = lambda data: data
        """Applied to what the target sends."""
        self._budget: int | None = None
        self._lines: list[tuple[socket.socket, socket.socket]] = []
        self._stalled: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def cut(self) -> None:
        """End all connections."""
        for line in list(self._lines):  # a line that ends is taken out meanwhile
            for end in line:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut_after(self, count: int) -> None:
        """End the connections once they have carried so many more bytes from the target."""
        self._budget = count

    def say(self, data: bytes) -> None:
        """Say something in the target's name, over all connections that still stand."""
        for near, _ in list(self._lines):
            with contextlib.suppress(OSError):
                near.sendall(data)

    def stall(self) -> None:
        """Let the connections stand, but carry nothing any more; new ones work."""
        self._stalled |= set(self._lines)

    def _accept(self) -> None:
        while not self._closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted.append(time.monotonic())
            if self.refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self._lines.append((near, far))
            self._start(self._carry, (near, far))

    def _carry(self, line: tuple[socket.socket, socket.socket]) -> None:
        near, far = line
        back = threading.Thread(target=self._pump, args=(line, far, near, True), daemon=True)
        back.start()
        self._pump(line, near, far, False)
        back.join()
        self._lines.remove(line)
        near.close()
        far.close()

    def _pump(
        self, line: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket, is_down: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                while line in self._stalled and not self._closing:
                    time.sleep(0.01)
                if is_down:
                    data = self.change(data)
                    if self._budget is not None:
                        self._budget -= len(data)
                        if self._budget < 0:
                            data = data[: self._budget]
                            self._budget = None
                            sink.sendall(data)
                            break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
