"""Certificates for a local broker: an authority of our own, and what it issues to the broker and to its users.

The certificates are made by trustme, https://trustme.readthedocs.io; the broker takes the user's name from the
common name of a client's certificate (mosquitto's `use_identity_as_username`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fml_lightning.errors import UserError

if TYPE_CHECKING:
    import trustme


class KeyPair(NamedTuple):
    """A certificate and its private key, PEM files."""

    certificate: Path
    key: Path
    """Readable by its owner only."""


class Authority:
    """A certificate authority that lives in a folder: `ca.crt`, and `ca.key`, made at first use.

    A folder that holds `ca.crt`, `server.crt` and `server.key` but no `ca.key` is one whose certificates come from
    elsewhere: they are used as they are, and nothing can be issued.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.ca_file = self.folder / "ca.crt"
        """What clients verify the broker with."""
        self._ca_key = self.folder / "ca.key"

    def server(self, *hosts: str) -> KeyPair:
        """The broker's certificate, issued anew for these host names and addresses."""
        pair = self._pair("server")
        if self.ca_file.is_file() and not self._ca_key.is_file() and all(file.is_file() for file in pair):
            return pair
        return self._issue(pair, tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", *hosts))), None)

    def client(self, user: str) -> KeyPair:
        """A user's certificate; issued at first use."""
        pair = self._pair(f"client-{user}")
        if all(file.is_file() for file in pair):
            return pair
        # An identity is required beside the common name; the broker does not look at it.
        return self._issue(pair, (f"{user}@localhost",), user)

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _issue(self, pair: KeyPair, hosts: tuple[str, ...], user: str | None) -> KeyPair:
        issued = self._open().issue_cert(*hosts, common_name=user)
        write_private(pair.key, issued.private_key_pem.bytes())
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return pair

    def _open(self) -> trustme.CA:
        try:
            import trustme
        except ImportError:
            raise UserError(
                "certificates: TLS for a local broker needs trustme: pip install 'fml-lightning[broker]'"
            ) from None
        if self._ca_key.is_file():
            return trustme.CA.from_pem(self.ca_file.read_bytes(), self._ca_key.read_bytes())
        if self.ca_file.exists():
            raise UserError(
                f"certificates: {self.ca_file} has no {self._ca_key.name} beside it, so nothing can be issued: put"
                f" server.crt, server.key and the clients' certificates there too, or name an empty folder"
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = trustme.CA(organization_name="fml-lightning local broker")
        write_private(self._ca_key, authority.private_key_pem.bytes())
        self.ca_file.write_bytes(authority.cert_pem.bytes())
        return authority


def write_private(file: Path, content: bytes) -> None:
    """Write a file that only its owner may read, also where it was there before with other permissions."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        stream.write(content)
