"""A startup kit: the folder that makes a host the server, or a site, of one federation.

NVFlare's `package` makes it: `startup/` holds the host's certificate and private key, the certificate of the
authority that issued it, and the server's address; `local/` holds what the host may set. A kit opens with the
`cryptography` package alone, so that nothing of NVFlare is imported to say what is wrong with it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import NameOID

from fml_lightning.durable import sync_folder
from fml_lightning.errors import UserError

Role = Literal["server", "site"]
"""What a host is in a federation."""

SERVER_HUB = "fml_lightning.executors.nvflare.server_hub.ServerHub"
SITE_HUB = "fml_lightning.executors.nvflare.site_hub.SiteHub"

WARNING_DAYS = 60
"""Days before a certificate's end from which on `Kit.warning` speaks: time for a letter and an approval."""
SILENCE = 30
"""Seconds without a heartbeat after which the server takes a site for gone; NVFlare's default is 600."""
MOST_BYTES = 1 << 30
"""Longest message; NVFlare's default is 4 GiB, which a stranger among the sites could make the server hold."""

_TYPE_OF_CERTIFICATE: dict[Role, str] = {"server": "server", "site": "client"}
_NOT_OURS = {"process_launcher", "site_log_streamer", "log_receiver"}
"""Components of NVFlare's that are left out: there are no jobs, so that no code can be started at a host, and
a site's logs, which name machines and files, stay there."""


class Kit:
    """A startup kit on disk, found whole and belonging together.

    Whether its certificate is valid *today* is not looked at before `check`: an expired kit opens, so that it can
    be renewed, and so that what runs with it can say what is wrong.

    Args:
        folder: the kit: what `fml provision package` made.

    Raises:
        UserError: it is no kit, or its key, certificate, authority and address do not belong together.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.role: Role = self._find_role()
        """Whether this host is the server or a site."""
        self.federation: str
        """The federation's name; the certificate authority has it too."""
        self.host: str
        """Where the server is; at a site, where it dials to."""
        self.port: int
        self.federation, self.host, self.port = self._address()
        self._certificate = read_certificate(self.certificate_file)
        self._authority = read_certificate(self.startup / "rootCA.pem")
        self.name = _attribute(self._certificate, NameOID.COMMON_NAME)
        """The host's name in the federation, which its certificate proves."""
        self._check_parts()

    @property
    def startup(self) -> Path:
        """The folder of certificates and addresses."""
        return self.folder / "startup"

    @property
    def certificate_file(self) -> Path:
        """The host's certificate, which `renew` replaces."""
        return self.startup / ("server.crt" if self.role == "server" else "client.crt")

    @property
    def key_file(self) -> Path:
        """The host's private key, which never leaves it."""
        return self.certificate_file.with_suffix(".key")

    @property
    def authority(self) -> str:
        """The SHA-256 fingerprint of the federation's certificate authority, as `SHA256:AA:BB:...`."""
        return fingerprint(self._authority)

    @property
    def starts(self) -> datetime:
        """When the certificate begins to be valid."""
        return max(self._certificate.not_valid_before_utc, self._authority.not_valid_before_utc)

    @property
    def ends(self) -> datetime:
        """When the certificate ceases to be valid, or its authority does, if that comes first."""
        return min(self._certificate.not_valid_after_utc, self._authority.not_valid_after_utc)

    def days_left(self, now: datetime | None = None) -> float:
        """Days until the certificate ends; negative once it has.

        Args:
            now: with its time zone; None: this host's clock.
        """
        return (self.ends - (now or datetime.now(UTC))) / timedelta(days=1)

    def warning(self, now: datetime | None = None) -> str | None:
        """A sentence, from 60 days before the certificate's end on and once it has come; else None.

        Args:
            now: with its time zone; None: this host's clock.
        """
        now = now or datetime.now(UTC)
        days = self.days_left(now)
        whose = f"the certificate of the {self.role} {self.name!r}"
        remedy = (
            f"have the old {self.name}.request.zip renewed where the certificate authority is (fml provision"
            f" renew), then run fml provision renew {self.name}.signed.zip --kit {self.folder} here"
        )
        if self._authority.not_valid_after_utc < self._certificate.not_valid_after_utc:
            whose = f"the certificate authority of the federation {self.federation!r}"
            remedy = "make a new one with fml provision init, and kits of it for all hosts"
        if now < self.starts:
            return (
                f"{whose} is valid from {_moment(self.starts)} on, and this host's clock says {_moment(now)}:"
                " nobody will accept it; set the clock, or wait"
            )
        if days <= 0:
            return (
                f"{whose} expired on {_moment(self.ends)}, and this host's clock says {_moment(now)}: nobody"
                f" accepts it any more; set the clock if it is wrong, else {remedy}"
            )
        if days <= WARNING_DAYS:
            left = "less than a day" if days < 1 else "1 day" if days < 2 else f"{int(days)} days"
            return f"{whose} expires in {left}, on {_moment(self.ends)}: {remedy}"
        return None

    def check(self, now: datetime | None = None) -> None:
        """Refuse a certificate that has expired or is not valid yet.

        Args:
            now: with its time zone; None: this host's clock.
        """
        now = now or datetime.now(UTC)
        if not self.starts <= now < self.ends:
            raise UserError(f"kit {self.folder}: {self.warning(now)}")

    def prepare(self, folder: str | Path) -> None:
        """Write into the kit's `local/` how NVFlare's process is to run: with our component, and in this folder.

        What the host's people wrote into `local/resources.json` stays, but for what must hold: our component
        alone may be loaded by name, no job can be started, what NVFlare stores lies in the folder, and logs are
        not sent away.

        Args:
            folder: where NVFlare may keep jobs, snapshots and logs; made where it is missing.
        """
        folder = Path(folder).absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        local = self.folder / "local"
        written, default = local / "resources.json", local / "resources.json.default"
        resources = _read_json(written if written.exists() else default)
        hub = SERVER_HUB if self.role == "server" else SITE_HUB
        try:
            components = [each for each in resources["components"] if each["id"] not in {"fml", *_NOT_OURS}]
            if self.role == "server":
                resources["servers"][0]["heart_beat_timeout"] = SILENCE
                storage = resources["snapshot_persistor"]["args"]["storage"]["args"]
                storage["root_dir"] = str(folder / "snapshots")
                jobs = next(each for each in components if each["id"] == "job_manager")
                jobs["args"]["uri_root"] = str(folder / "jobs")
            else:
                resources["allow_log_streaming"] = False
        except (KeyError, IndexError, TypeError, StopIteration) as error:
            raise UserError(
                f"kit: {written if written.exists() else default} lacks a part that NVFlare needs"
                f" ({error or 'job_manager'}); delete resources.json, and it is made anew"
            ) from error
        resources["components"] = [*components, {"id": "fml", "path": hub, "args": {}}]
        resources["class_list_enforcement_mode"] = "enforce"
        resources["class_allow_list"] = [hub]
        messages = local / "comm_config.json"
        limits = {"max_message_size": MOST_BYTES, "streaming_max_blob_size": MOST_BYTES}
        replace_file(messages, _json(limits | (_read_json(messages) if messages.exists() else {})))
        replace_file(written, _json(resources))

    def _find_role(self) -> Role:
        if not self.folder.is_dir():
            raise UserError(
                f"kit {self.folder}: no such folder; name the folder that fml provision package made on this host"
            )
        found: list[Role] = []
        if self._config_file("server").is_file():
            found.append("server")
        if self._config_file("site").is_file():
            found.append("site")
        if len(found) != 1:
            raise UserError(
                f"kit {self.folder}: expected one of startup/fed_server.json and startup/fed_client.json, found"
                f" {'both' if found else 'none'}; name the folder that fml provision package made on this host"
            )
        return found[0]

    def _config_file(self, role: Role) -> Path:
        return self.startup / ("fed_server.json" if role == "server" else "fed_client.json")

    def _address(self) -> tuple[str, str, int]:
        file = self._config_file(self.role)
        config = _read_json(file)
        try:
            server = config["servers"][0]
            federation, target = server["name"], server["service"]["target"]
            host, _, port = target.rpartition(":")
            if not (host and federation and 1 <= int(port) <= 65535):
                raise ValueError(target)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"kit: {file} does not say where the server is; expected servers[0] with a name and a"
                f' service.target such as "hub.example.com:8002" ({error!r})'
            ) from error
        return str(federation), host, int(port)

    def _check_parts(self) -> None:
        certificate = self._certificate
        check_certificate(certificate, self.certificate_file, read_key(self.key_file), self._authority)
        expected = _TYPE_OF_CERTIFICATE[self.role]
        if (found := _attribute(certificate, NameOID.UNSTRUCTURED_NAME)) != expected:
            raise UserError(
                f"kit {self.folder}: it is a {self.role}'s, but its certificate was issued to a"
                f" {found or 'stranger'}"
            )
        if self.role == "server":
            check_host(certificate, self.host, self.certificate_file)
            return
        named = _read_json(self._config_file("site")).get("client", {}).get("fqsn", self.name)
        if named != self.name:
            raise UserError(
                f"kit {self.folder}: startup/fed_client.json names {named!r}, but the certificate is that of"
                f" {self.name!r}; a site has the name that its certificate proves"
            )


def read_certificate(file: Path) -> x509.Certificate:
    """A certificate in PEM; a sentence if there is none."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"kit: {file} is missing; a kit holds certificate, key and rootCA.pem") from None
    except OSError as error:
        raise UserError(f"kit: {file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"kit: {file} holds no certificate in PEM ({error})") from error


def read_key(file: Path) -> PublicKeyTypes:
    """The public half of a private key in PEM, which nobody but its owner may be able to read."""
    try:
        if (mode := file.stat().st_mode & 0o777) & 0o077:
            raise UserError(f"kit: others may read the private key {file} (mode {mode:04o}): chmod 600 {file}")
        return serialization.load_pem_private_key(file.read_bytes(), password=None).public_key()
    except FileNotFoundError:
        raise UserError(
            f"kit: the private key {file} is missing; it was made on the host that the kit is for, and never"
            " left it"
        ) from None
    except OSError as error:
        raise UserError(f"kit: {file} cannot be read ({error.strerror}); run this as its owner") from error
    except UserError:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"kit: {file} holds no private key in PEM ({error})") from error


def check_certificate(
    certificate: x509.Certificate, file: Path, key: PublicKeyTypes, authority: x509.Certificate
) -> None:
    """Refuse a certificate, which came from `file`, that is not this key's or not issued by this authority."""
    if certificate.public_key() != key:
        raise UserError(
            f"kit: the private key is not that of the certificate {file}: they come from two requests; package"
            " the answer to the request that was made with this key"
        )
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise UserError(
            f"kit: the certificate {file} was not issued by this federation's certificate authority"
            f" ({fingerprint(authority)}); ask who runs the federation for one that is"
        ) from None


def check_host(certificate: x509.Certificate, host: str, file: Path) -> None:
    """Refuse a server's certificate, which came from `file`, that does not name the host it is looked for at."""
    hosts = host_names(certificate)
    if _host(host) not in hosts:
        raise UserError(
            f"kit: the server is to be found at {host!r}, but its certificate {file} names"
            f" {', '.join(hosts) or 'no host'}; a server with a new name needs a new request: fml provision"
            " request --role server"
        )


def host_names(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate proves."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return [*(name.lower() for name in names.get_values_for_type(x509.DNSName)), *addresses]


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, as `SHA256:AA:BB:...`."""
    return f"SHA256:{certificate.fingerprint(hashes.SHA256()).hex(':').upper()}"


def replace_file(file: Path, content: bytes) -> None:
    """Write a file as a whole or not at all; it is on disk when this returns.

    Who may read it stays, and is its owner alone where it is new.
    """
    descriptor, made = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if file.exists():  # an administrator may write what a service under another name reads
                before = file.stat()
                os.fchmod(descriptor, before.st_mode & 0o777)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(made, file)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def _host(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"kit: {file} is missing; name a folder that fml provision package made") from None
    except OSError as error:
        raise UserError(f"kit: {file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"kit: {file} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"kit: {file} is not a JSON object")
    return content
