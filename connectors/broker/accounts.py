"""Accounts at a local broker: users, their passwords, and what each may read and write."""

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
    """The users of a broker, in its folder.

    Args:
        folder: holds `acl` and `passwd` (hashes), which mosquitto reads, and the passwords in clear, readable by
            their owner only: `passwords.json` (of all users) and `NAME.password` (of one, without an end of line).
        users: their names, whose passwords are those in the folder or new random ones; or their passwords by name.
        acl: rules by user, where `default_rules` does not fit.
    """

    def __init__(
        self, folder: Path, users: Mapping[str, str] | Sequence[str], acl: Mapping[str, Sequence[str]]
    ) -> None:
        for user in users:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", user):
                raise UserError(f"Broker: expected users named with letters, digits, '.', '_', '-', got {user!r}")
        if unknown := sorted(set(acl) - set(users)):
            raise UserError(f"Broker: acl names {unknown[0]!r}, who is not among the users ({', '.join(users)})")
        self.folder = folder
        self.rules = {user: tuple(acl.get(user, default_rules(user))) for user in users}
        self._given = dict(users) if isinstance(users, Mapping) else {}

    @property
    def passwords(self) -> dict[str, str]:
        """The passwords by user, once written."""
        file = self.folder / "passwords.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    def password_file(self, user: str) -> Path:
        """The file that holds a user's password and nothing else."""
        return self.folder / f"{user}.password"

    def write(self) -> None:
        """Write all files; the password of whoever is no longer a user is deleted."""
        rules = "".join(
            f"user {user}\n" + "".join(f"topic {rule}\n" for rule in allowed)
            for user, allowed in self.rules.items()
        )
        write_private(self.folder / "acl", rules.encode())
        known = self.passwords
        for user in known.keys() - self.rules.keys():
            self.password_file(user).unlink(missing_ok=True)
        passwords = {
            user: self._given.get(user) or known.get(user) or secrets.token_urlsafe(24) for user in self.rules
        }
        write_private(self.folder / "passwords.json", json.dumps(passwords, indent=2).encode())
        for user, password in passwords.items():
            write_private(self.password_file(user), password.encode())
        hashes = "".join(
            f"{user}:{hash_password(password, os.urandom(12))}\n" for user, password in passwords.items()
        )
        write_private(self.folder / "passwd", hashes.encode())


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
