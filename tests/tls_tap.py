"""A tap of a line under mutual TLS: a test has the keys of both ends, and so reads what goes over it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path


class Tap:
    """Stands between the sites and the server, ends TLS at both, and notes every byte that passes.

    Args:
        server: the server's kit, whose certificate the sites are shown.
        site: a site's kit, whose certificate the server is shown.
        port: of the server, on this machine.
    """

    def __init__(self, server: Path, site: Path, port: int) -> None:
        self.up = bytearray()
        """What sites sent."""
        self.down = bytearray()
        """What the server sent."""
        self._target = port
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(server / "startup/server.crt", server / "startup/server.key")
        self._near.load_verify_locations(server / "startup/rootCA.pem")
        self._near.verify_mode = ssl.CERT_REQUIRED
        self._far = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._far.load_cert_chain(site / "startup/client.crt", site / "startup/client.key")
        self._far.load_verify_locations(site / "startup/rootCA.pem")
        for context in (self._near, self._far):
            context.set_alpn_protocols(["h2"])  # gRPC's
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closing = False
        self._lines: list[ssl.SSLSocket] = []

    def __enter__(self) -> Tap:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
        for each in (self._listener, *self._lines):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(plain,), daemon=True).start()

    def _carry(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            near = opened.enter_context(self._near.wrap_socket(plain, server_side=True))
            outward = opened.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            far = opened.enter_context(self._far.wrap_socket(outward, server_hostname="localhost"))
            self._lines += [near, far]
            opened.pop_all()  # closed in the end; a line that does not get this far is closed at once
            threading.Thread(target=self._pump, args=(far, near, self.down), daemon=True).start()
            self._pump(near, far, self.up)

    def _pump(self, source: ssl.SSLSocket, sink: ssl.SSLSocket, noted: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                noted += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
