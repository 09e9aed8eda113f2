"""A local MQTT broker: mosquitto, as a subprocess with safe defaults, for demos, tests and one-machine plants.

mosquitto.conf(5): https://mosquitto.org/man/mosquitto-conf-5.html
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fml_lightning.connectors.broker.accounts import Accounts
from fml_lightning.connectors.broker.certificates import Authority, KeyPair, write_private
from fml_lightning.connectors.mqtt.connection import Connection, is_loopback
from fml_lightning.connectors.mqtt.tls import TLS
from fml_lightning.errors import UserError

FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/sbin", "/opt/homebrew/bin")
"""Where mosquitto is looked for besides PATH: Debian keeps it out of users' PATH, Homebrew out of a service's."""

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "persistence": "true",
        # The database is written as a whole each time, so shorter intervals cost more the longer the queues are.
        "autosave_interval": "2",
        # mosquitto drops what exceeds its queue, silently, though it has acknowledged it; its default is 1000.
        "max_queued_messages": "100000",
        "log_dest": "stderr",
        "log_timestamp_format": "%Y-%m-%dT%H:%M:%S",
    }
)
"""mosquitto's global options, which `settings` may override."""

PORTS = range(20_000, 32_768)
"""Where a free one is looked for: below those that systems give to whoever asks for any, such as to each client.
So one that is chosen is given to nobody else before it is listened at, or while a broker is started again."""

CONNECT = b"\x10\x15\x00\x04MQTT\x04\x02\x00\x0a\x00\x09fml-ready"
"""An MQTT 3.1.1 CONNECT packet of the client `fml-ready`, without a user."""


class Broker:
    """mosquitto on a port of this machine: `with Broker("broker", users=("server", "plant1")) as broker: ...`.

    Nobody connects without a password (or, with `require_client_certificate`, without a certificate of their own),
    nothing but this machine reaches it, and a user `plant1` may write and read only `plant/plant1/#`; `server` and
    `admin` everything. It ends with the process that started it, however that ends.

    One login is one client. Whatever client id a client asks for, the broker takes the name of its login instead
    (mosquitto's `use_username_as_clientid`), so that nobody can take over another's session with the messages that
    wait in it. So every client that is connected at the same time needs a login of its own: a user has one login
    under its own name, for what it sends, and one for each of its `roles`, as `plant1.recorder`.

    A SIGKILL or a power cut loses messages: mosquitto keeps sessions and queued messages in memory, and writes
    them to the folder every 2 to 3 seconds (`autosave_interval`) and at `stop()`. Messages that it acknowledged in
    the last 3 seconds never reach a subscriber that had not got them yet, and sessions begun in these seconds are
    forgotten. With the `settings` autosave_on_changes of true and autosave_interval of 1 it writes after every
    change: then it loses what it acknowledged in its last milliseconds, and passes on a few hundred messages per
    second at most.

    The folder holds `mosquitto.conf`, `mosquitto.log`, `mosquitto.db` (sessions and queued messages),
    `certificates/`, and the passwords, readable by their owner only (`Accounts` says in which files).

    Args:
        folder: where all of that is kept; made where it is missing.
        users: the users' names, whose passwords are those in the folder or new random ones; or their passwords by
            name.
        roles: logins that each user has besides its own name, with the same rights; what records as `plant1` logs
            in as `plant1.recorder`.
        port: None takes a free one, and keeps it while this object lives.
        host: the address to listen at.
        tls: encrypt; clients verify the broker with `ca_file`.
        require_client_certificate: clients show a certificate (`client_certificate`) instead of a password; needs
            `tls`.
        acl: by user, where the default does not fit, what the user may do: a list of mosquitto's rules,
            `"read|write|readwrite|deny TOPIC FILTER"`; an empty list forbids everything.
        certificates: folder of the certificates; one that holds `ca.crt`, `server.crt` and `server.key` but no
            `ca.key` is used as it is. None: `certificates` in the folder.
        settings: further options of mosquitto.conf.
        insecure: listen beyond this machine without TLS.
    """

    def __init__(
        self,
        folder: str | Path,
        users: Mapping[str, str] | Sequence[str] = ("server",),
        port: int | None = None,
        host: str = "127.0.0.1",
        tls: bool = False,
        require_client_certificate: bool = False,
        acl: Mapping[str, Sequence[str]] = MappingProxyType({}),
        certificates: Path | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        insecure: bool = False,
        roles: Sequence[str] = ("recorder",),
    ) -> None:
        if require_client_certificate and not tls:
            raise UserError("Broker: require_client_certificate needs tls; set tls=True")
        if not (tls or insecure or is_loopback(host)):
            raise UserError(
                f"Broker: at {host!r} others could read the passwords on their way; set tls=True, listen at"
                " 127.0.0.1, or accept that with insecure=True"
            )
        self.folder = Path(folder).absolute()
        self.users = tuple(users)
        self.roles = tuple(roles)
        self._accounts = Accounts(self.folder, users, roles, acl, require_client_certificate)
        self.host = host
        self.port = port if port is not None else free_port(host)
        self.tls = tls
        self.require_client_certificate = require_client_certificate
        self.settings = dict(settings)
        self._authority = Authority(certificates or self.folder / "certificates")
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        return f"Broker({str(self.folder)!r}, {self.host}:{self.port}, tls={self.tls})"

    @property
    def logins(self) -> tuple[str, ...]:
        """All logins: of the users, and of each in every role."""
        return tuple(self._accounts.rules)

    @property
    def passwords(self) -> dict[str, str]:
        """The passwords by login, once started; not asked for where certificates take their place."""
        return self._accounts.passwords

    @property
    def ca_file(self) -> Path | None:
        """What clients verify the broker with, once started; None without TLS."""
        return self._authority.ca_file if self.tls else None

    @property
    def log_file(self) -> Path:
        """The broker's log, of all its starts."""
        return self.folder / "mosquitto.log"

    @property
    def pid(self) -> int | None:
        """The process while it runs."""
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        return self._process.pid if self._process is not None else None

    @property
    def _reachable(self) -> str:
        """Where clients on this machine find it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    def username(self, login: str) -> str:
        """The name that a login gives to the broker, once started; a role's ends with random letters."""
        return self._accounts.username(login)

    def password_file(self, login: str) -> Path:
        """The file that holds a login's password and nothing else."""
        return self._accounts.password_file(login)

    def client_certificate(self, login: str) -> KeyPair:
        """A login's certificate, issued at first use."""
        return self._authority.client(login)

    def connection(self, login: str) -> Connection:
        """How one client connects, once started; the password is named by its file.

        Raises:
            UserError: there is no such login.
        """
        if login not in self.logins:
            raise UserError(f"Broker: expected one of the logins {', '.join(self.logins)}, got {login!r}")
        if self.require_client_certificate:
            certificate, key = self.client_certificate(login)
            return Connection(self._reachable, self.port, tls=TLS(str(self.ca_file), str(certificate), str(key)))
        return Connection(
            self._reachable,
            self.port,
            self.username(login),
            str(self.password_file(login)),
            tls=TLS(str(self.ca_file)) if self.tls else None,
        )

    def start(self, timeout: float = 60.0) -> None:
        """Start, or start again at the same port with the sessions and messages of before; return when it answers.

        Args:
            timeout: seconds until it has to answer.

        Raises:
            UserError: mosquitto is not installed, the port is taken, or mosquitto ended: with its last words.
        """
        if self.pid is not None:
            return
        program = find_mosquitto()
        _check_free(self.host, self.port)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._accounts.write()
        configuration = self.folder / "mosquitto.conf"
        write_private(configuration, self._configuration().encode())
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        descriptor = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            # A session of its own: Ctrl-C is for the program that started it, which stops it when it is done.
            self._process = subprocess.Popen(
                [program, "-c", str(configuration)], stdout=log, stderr=log, start_new_session=True
            )
        # The pipe closes with this process, however that ends. Linux's parent-death signal would come as soon as
        # the thread that called `start` ends, and there is none on macOS.
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -TERM "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._wait_until_ready(timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 30.0) -> None:
        """End it with SIGTERM, upon which it saves sessions and messages; after `timeout` seconds with SIGKILL."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash or a power cut would."""
        self._end(signal.SIGKILL, 10.0)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it ends by itself, or `timeout` seconds.

        Raises:
            UserError: it ended; with its last words.
        """
        if self._process is None:
            return
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return
        self._forget()
        raise UserError(f"Broker: mosquitto ended: {self.last_words()}")

    def last_words(self) -> str:
        """The last lines of the log since the last start, on one line."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return " | ".join(log.read().decode(errors="replace").splitlines()[-5:]) or "(it wrote no log)"

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _configuration(self) -> str:
        options = {
            "per_listener_settings": "true",
            **SETTINGS,
            "persistence_location": f"{self.folder}/",
            "listener": f"{self.port} {self.host}",
            "allow_anonymous": "false",
            "acl_file": str(self.folder / "acl"),
            # The client id of another client takes its session over, with all messages that wait in it.
            "use_username_as_clientid": "true",
        }
        if os.geteuid() == 0:
            options["user"] = "root"  # else it becomes the user mosquitto, who may not read the folder
        if self.tls:
            pair = self._authority.server(self.host)
            options |= {
                "cafile": str(self._authority.ca_file),
                "certfile": str(pair.certificate),
                "keyfile": str(pair.key),
            }
        if self.require_client_certificate:
            options |= {"require_certificate": "true", "use_identity_as_username": "true"}
        else:
            options["password_file"] = str(self.folder / "passwd")
        return "".join(f"{name} {value}\n" for name, value in (options | self.settings).items())

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.pid is None:
                raise UserError(f"Broker: mosquitto ended when it was started: {self.last_words()}")
            if time.monotonic() > deadline:
                raise UserError(
                    f"Broker: mosquitto did not answer at {self.host}:{self.port} within {timeout:g} s: "
                    + self.last_words()
                )
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self._reachable, self.port), timeout=1.0) as connection:
                if self.tls:
                    # A finished handshake tells that it answers; no secret is sent, so nothing is verified.
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                    context.wrap_socket(connection).close()
                    return self.pid is not None
                connection.sendall(CONNECT)
                return connection.recv(4)[:1] == b"\x20" and self.pid is not None  # a CONNACK, also of refusal
        except OSError:
            return False

    def _end(self, number: int, timeout: float) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._forget()

    def _forget(self) -> None:
        """End the watcher once mosquitto has ended: its process id may soon be another process's."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
        self._process = self._watcher = None


def find_mosquitto() -> str:
    """Where mosquitto is."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(FOLDERS))
    if found is None:
        raise UserError(
            "Broker: mosquitto is not installed: `apt-get install mosquitto` (Debian, Ubuntu) or `brew install"
            " mosquitto` (macOS)"
        )
    return found


def _address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UserError(f"Broker: expected an address of this machine as host, got {host!r} ({error})") from None
    return family, (str(address[0]), port)


def free_port(host: str) -> int:
    """A port of this machine that nothing listens at now, one of `PORTS`."""
    family, (address, _) = _address(host, 0)
    ports = random.SystemRandom().sample(PORTS, len(PORTS))  # not those that others of the same seed choose
    for port in ports:
        with socket.socket(family) as listener:
            try:
                listener.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise UserError(f"Broker: there is no free port at {host}; choose one")


def _check_free(host: str, port: int) -> None:
    family, address = _address(host, port)
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise UserError(
                f"Broker: cannot listen at {host}:{port} ({error.strerror}): end what does, or choose another port"
            ) from None
