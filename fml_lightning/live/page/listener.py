"""The page's socket: bounded connections, bounded requests, and clients that cannot be slow for ever."""

from __future__ import annotations

import io
import ipaddress
import logging
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)

CONNECTIONS = 64
"""At a time, each with a thread."""
FROM_ONE = CONNECTIONS // 2
"""Of these from one address, so that no other computer takes all. Any number may come from this one: it may be a
proxy."""
REQUEST_SECONDS = 10.0
"""Within which a request must have come, whole."""
REQUEST_BYTES = 32 * 1024
"""Of a request: its line, headers and body."""
SEND_SECONDS = 20.0
"""Within which a client must take what one call sends."""

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Type: text/plain\r\nContent-Length: 25\r\n"
    b"Connection: close\r\n\r\nToo many are connected.\r\n"
)


class Incoming(io.RawIOBase):
    """What a client sends, until its request should have come, and no more bytes than a request may have."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + REQUEST_SECONDS
        self._bytes = REQUEST_BYTES

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes.

        Raises:
            TimeoutError: the request has not come in time.
            ConnectionAbortedError: it is too long.
        """
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the request did not come in time")
        if self._bytes <= 0:
            raise ConnectionAbortedError("the request is too long")
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(memoryview(buffer)[: self._bytes])
        self._bytes -= count
        return count


class Listener(socketserver.ThreadingTCPServer):
    """Accepts connections, gives each a thread, and refuses those beyond `CONNECTIONS`."""

    allow_reuse_address = os.name != "nt"  # there it would let two programs share a port
    allow_reuse_port = False
    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS

    def __init__(
        self, family: int, address: tuple[Any, ...], handler: Callable[..., socketserver.BaseRequestHandler]
    ) -> None:
        self.address_family = family
        self._open: dict[socket.socket, str] = {}  # connections, and from which address
        self._changed = threading.Condition()  # of `_open`
        self.stopping = threading.Event()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, if there is room."""
        with self._changed:
            has_room = self._has_room(client_address[0])
            if has_room:
                self._open[request] = client_address[0]
        if not has_room:
            request.setblocking(False)
            try:
                request.send(_BUSY)
            except OSError:
                _log.debug("page: a client beyond the last was gone before it was refused")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what ended a connection: clients go when they like, anything else is a fault."""
        level = logging.DEBUG if isinstance(sys.exc_info()[1], OSError) else logging.ERROR
        _log.log(level, "page: the connection of %s ended", client_address, exc_info=True)

    def stop(self) -> None:
        """Accept no more, end what is open, and wait some seconds for the threads to notice."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    _log.debug("page: a client had gone already")
            self._changed.wait_for(lambda: not self._open, 5.0)

    def _has_room(self, address: str) -> bool:
        from_here = sum(each == address for each in self._open.values())
        is_other = not ipaddress.ip_address(address.partition("%")[0]).is_loopback
        return len(self._open) < CONNECTIONS and not (is_other and from_here >= FROM_ONE)

    def _leave(self, request: socket.socket) -> None:
        with self._changed:
            del self._open[request]
            self._changed.notify_all()
