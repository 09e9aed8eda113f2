"""TLS: whom we trust, and who we are by certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from fml_lightning.errors import UserError


@dataclass(frozen=True)
class TLS:
    """Encryption, and who proves who they are by certificate."""

    ca_file: str | None = None
    """PEM file of the authorities to trust; null: those of the system."""
    certificate: str | None = None
    """PEM file of our own certificate, for brokers that ask for one (mTLS)."""
    key: str | None = None
    """PEM file of its private key."""
    verify: bool = True
    """false: accept any certificate of the broker, so that anybody between us and the broker can pass for it."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise UserError("tls: expected certificate and key together, got one of them")
        for name in ("ca_file", "certificate", "key"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise UserError(f"tls.{name}: no file {path}")

    def context(self) -> ssl.SSLContext:
        """The context that the ssl module needs.

        Raises:
            UserError: a file holds no certificate or key.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.sslsocket_class = _ClosingSocket
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            raise UserError(
                f"tls: {self} cannot be used: {error}; expected PEM files that belong together"
            ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise
