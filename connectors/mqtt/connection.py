"""The connection to a broker: address, credentials, encryption, and what its failures mean."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from fml_lightning.connectors.mqtt.tls import TLS
from fml_lightning.errors import UserError

C = TypeVar("C", bound=Client)


@dataclass(frozen=True)
class Connection:
    """Where a broker is, and who we are.

    The password is never a setting, so that it is in no YAML: name a file or an environment variable.
    """

    host: str = "127.0.0.1"
    """Name or address."""
    port: int | None = None
    """8883 with TLS, else 1883, unless you say otherwise."""
    username: str | None = None
    """Who we are to the broker."""
    password_file: str | None = None
    """A file whose first line is the password."""
    password_env: str | None = None
    """The environment variable that holds the password."""
    tls: TLS | None = None
    """Encryption; null only on this machine, or where `unencrypted` says so."""
    unencrypted: bool = False
    """true: talk to another machine without encryption, so that passwords and data can be read on the way."""
    version: Literal["5", "3.1.1"] = "5"
    """Of MQTT."""
    keepalive: int = 30
    """Seconds of silence after which both ends check that the other is there."""
    timeout: float = 10.0
    """Seconds to wait for the broker's answer to a connection."""

    def __post_init__(self) -> None:
        if not self.host or self.keepalive < 1 or not self.timeout > 0:
            raise UserError(
                f"connection: expected a host, keepalive of at least 1 and timeout above 0, got {self}"
            )
        if self.port is not None and not 0 < self.port < 65536:
            raise UserError(f"connection.port: expected 1 to 65535, got {self.port}")
        if self.tls is None and not self.unencrypted and not is_loopback(self.host):
            raise UserError(
                f"connection: {self.host} is another machine, so expected tls; set tls, or unencrypted: true if"
                " everybody on the way may read and change what is sent"
            )
        if self.password_file is not None and self.password_env is not None:
            raise UserError("connection: expected password_file or password_env, got both")
        if (self.password_file or self.password_env) and self.username is None:
            raise UserError("connection: expected a username with the password, got none")

    @cached_property
    def address(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.effective_port}"

    @property
    def effective_port(self) -> int:
        """The port."""
        return self.port or (1883 if self.tls is None else 8883)

    def password(self) -> str | None:
        """The password, read from its file or variable at each call, so that it can be changed while we run.

        Raises:
            UserError: there is no such file or variable, or it is empty.
        """
        if self.password_env is not None:
            value = os.environ.get(self.password_env)
            if not value:
                raise UserError(
                    f"connection.password_env: the environment variable {self.password_env} is not set"
                )
            return value
        if self.password_file is not None:
            try:
                lines = Path(self.password_file).read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"connection.password_file: cannot read {self.password_file}: {error}") from error
            if not lines or not lines[0]:
                raise UserError(f"connection.password_file: {self.password_file} is empty")
            return lines[0]
        return None

    def client(
        self,
        client_id: str,
        kind: type[C] = Client,  # type: ignore[assignment]  # mypy knows no default of a type variable
        *,
        manual_ack: bool = False,
        clean: bool = True,
    ) -> C:
        """A paho client that is ready to connect.

        Args:
            client_id: the name of the session at the broker.
            kind: paho's client, or a kind of it.
            manual_ack: messages are acknowledged by us, not on arrival.
            clean: forget the session when the connection ends (MQTT 3.1.1 only; MQTT 5 says so on connecting).
        """
        is_5 = self.version == "5"
        client = kind(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTv5 if is_5 else MQTTv311,
            clean_session=None if is_5 else clean,
            manual_ack=manual_ack,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self.timeout
        if self.username is not None:
            client.username_pw_set(self.username, self.password())
        if self.tls is not None:
            client.tls_set_context(self.tls.context())
            client.tls_insecure_set(not self.tls.verify)
        return client

    def refusal(self, code: ReasonCode) -> str:
        """What a broker's reason for refusing means, and what to do."""
        name = str(code)
        if name in ("Bad user name or password", "Not authorized", "Bad authentication method"):
            return (
                f"the broker {self.address} refuses the user {self.username!r} ({name.lower()}); check username"
                " and password" + ("" if self.username else "; expected a username, got none")
            )
        if name == "Client identifier not valid":
            return f"the broker {self.address} refuses our client_id; choose another"
        if name == "Unsupported protocol version":
            return f"the broker {self.address} does not speak MQTT {self.version}; set version to the other one"
        return f"the broker {self.address} refuses the connection: {name}"

    def failure(self, error: OSError) -> str:
        """What a failure to connect means, and what to do."""
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = error.verify_message.rstrip(".")
            advice = {
                "certificate has expired": "renew the broker's certificate",
                "unable to get local issuer certificate": "set tls.ca_file to the authority that signed it",
                "self-signed certificate in certificate chain": "set tls.ca_file to the authority that signed it",
                "self-signed certificate": "set tls.ca_file to the authority that signed it",
            }.get(reason, "set host to a name in the certificate, or tls.ca_file to the authority that signed it")
            return f"the certificate of the broker {self.address} is not valid: {reason}; {advice}"
        if self.is_refusal(error):
            detail = getattr(error, "reason", None) or error.strerror or error
            return (
                f"no encrypted connection with the broker {self.address} ({detail}); does this port speak TLS, and"
                " does the broker ask for a client certificate?"
            )
        return f"no connection with the broker {self.address} ({error.strerror or error}); is it running?"

    def silence(self, last_words: str | None) -> str:
        """What it means that somebody accepts the connection, but never answers as a broker does, and what to do.

        Args:
            last_words: how the connection was ended, as far as we know; None if it was not.
        """
        expected = "a client certificate (mTLS)" if self.tls else "tls"
        said = "does not answer" if last_words is None else f"ends the connection without an answer ({last_words})"
        return f"the broker {self.address} {said}; is it one, and does it expect {expected}?"

    def is_refusal(self, error: OSError) -> bool:
        """Whether an error means that trying again will hardly help, unless the broker has accepted us before."""
        return isinstance(error, ssl.SSLError) or (
            self.tls is not None and isinstance(error, ConnectionResetError)
        )

    @staticmethod
    def is_busy(code: ReasonCode) -> bool:
        """Whether a broker refuses us only for now."""
        return str(code) in ("Server unavailable", "Server busy", "Quota exceeded", "Connection rate exceeded")


def is_loopback(host: str) -> bool:
    """Whether a name or address is that of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
