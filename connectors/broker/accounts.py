"""Accounts at a local broker: users, their logins and passwords, and what each may read and write."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from fml_lightning.connectors.broker.certificates import write_private
from fml_lightning.errors import UserError

ADMINISTRATORS = ("server", "admin")
"""Users that may read and write everything, unless `acl` says otherwise."""

ITERATIONS = 10_000
"""Rounds of PBKDF2 for stored passwords; mosquitto_passwd's default is 101."""


class Accounts:
    """The logins of a broker's users, in its folder.

    A user `plant1` logs in as `plant1`, and once more in each role, as `plant1.recorder`, with the same rights and
    another password. Unless certificates take the place of passwords, a role gives the broker a name that ends
    with random letters, which are kept in the folder: mosquitto 2.0.11 forgets a client's session when anybody
    tries to connect without a user and with the client's name as client id.

    Args:
        folder: holds `acl` and `passwd` (hashes), which mosquitto reads, and, readable by their owner only, the
            passwords in clear: `passwords.json` (of all logins) and `LOGIN.password` (of one, without an end of
            line). `LOGIN.username` holds the name that a role gives to the broker.
        users: their names, whose passwords are those in the folder or new random ones; or their passwords by name.
        roles: what each user has a login of its own for.
        acl: rules by user, where `default_rules` does not fit; they hold for the user's roles too.
        with_certificates: whether clients show certificates, so that roles need no random names.
    """

    def __init__(
        self,
        folder: Path,
        users: Mapping[str, str] | Sequence[str],
        roles: Sequence[str],
        acl: Mapping[str, Sequence[str]],
        with_certificates: bool = False,
    ) -> None:
        for user in users:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", user):
                raise UserError(f"Broker: expected users named with letters, digits, '.', '_', '-', got {user!r}")
        for role in roles:  # without a dot, so that a login is that of one user in one role
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", role):
                raise UserError(f"Broker: expected roles named with letters, digits, '_', '-', got {role!r}")
        if unknown := sorted(set(acl) - set(users)):
            raise UserError(f"Broker: acl names {unknown[0]!r}, who is not among the users ({', '.join(users)})")
        self.folder = folder
        self.rules: dict[str, tuple[str, ...]] = {}
        """What each login may do."""
        self._hidden: set[str] = set()  # the logins that give the broker a random name
        for user in users:
            self.rules[user] = tuple(acl.get(user, default_rules(user)))
            for role in roles:
                login = f"{user}.{role}"
                if login in users:
                    raise UserError(
                        f"Broker: {login!r} is the login of the user {user!r} as {role}; leave it out of the"
                        " users, or name other roles"
                    )
                self.rules[login] = self.rules[user]
                if not with_certificates:
                    self._hidden.add(login)
        self._given = dict(users) if isinstance(users, Mapping) else {}

    @property
    def passwords(self) -> dict[str, str]:
        """The passwords by login, once written."""
        file = self.folder / "passwords.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    def username(self, login: str) -> str:
        """The name that a login gives to the broker, once written."""
        return self._username_file(login).read_text() if login in self._hidden else login

    def password_file(self, login: str) -> Path:
        """The file that holds a login's password and nothing else."""
        return self.folder / f"{login}.password"

    def write(self) -> None:
        """Write all files; the password of what is no longer a login is deleted."""
        known = self.passwords
        for login in known.keys() - self.rules.keys():
            self.password_file(login).unlink(missing_ok=True)
            self._username_file(login).unlink(missing_ok=True)
        for login in self._hidden:
            if not (file := self._username_file(login)).is_file():
                write_private(file, f"{login}.{secrets.token_hex(8)}".encode())
        rules = "".join(
            f"user {self.username(login)}\n" + "".join(f"topic {rule}\n" for rule in allowed)
            for login, allowed in self.rules.items()
        )
        write_private(self.folder / "acl", rules.encode())
        passwords = {
            login: self._given.get(login) or known.get(login) or secrets.token_urlsafe(24) for login in self.rules
        }
        write_private(self.folder / "passwords.json", json.dumps(passwords, indent=2).encode())
        for login, password in passwords.items():
            write_private(self.password_file(login), password.encode())
        hashes = "".join(
            f"{self.username(login)}:{hash_password(password, os.urandom(12))}\n"
            for login, password in passwords.items()
        )
        write_private(self.folder / "passwd", hashes.encode())

    def _username_file(self, login: str) -> Path:
        return self.folder / f"{login}.username"


def default_rules(user: str) -> list[str]:
    """What a user may do unless `acl` says otherwise.

    >>> default_rules("plant1")
    ['readwrite plant/plant1/#']
    """
    return ["readwrite #"] if user in ADMINISTRATORS else [f"readwrite plant/{user}/#"]


def hash_password(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """As mosquitto_passwd hashes: `$7$ITERATIONS$SALT$HASH`, PBKDF2 with HMAC-SHA-512.

    https://github.com/eclipse/mosquitto/blob/v2.0.11/apps/mosquitto_passwd/mosquitto_passwd.c
    """
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    return f"$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
