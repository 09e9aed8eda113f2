"""Two hosts under one name: a kit that was stolen, or copied, and runs twice.

NVFlare hands every process that registers a token, and lets whoever came last push the others of its name off the
line; these dial again and push it off in turn. So both would take part, now the one and now the other.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from itertools import pairwise

HOLD = 60.0
"""Seconds for which a host counts as running after it was heard of. A site's hub shows itself every few seconds,
and NVFlare dials again within 10 s."""
TOLD = re.compile(r"(\S+) is in use twice: ")
"""Finds in a log what `in_use_twice` says; its group is the name."""


def in_use_twice(name: str) -> str:
    """What is wrong with a name that two hosts have, and what to do: the same words at all ends."""
    return (
        f"{name} is in use twice: two hosts run with its kit, so neither takes part; end one of them, or, if the"
        f" kit was stolen, lock both out with fml server disable {name} and give the site a new name (fml"
        " provision request)"
    )


class Namesakes:
    """Tells which names two hosts have at once, by the tokens that are heard under each.

    A host that is started again has a new token, and its old one is never heard after that. So an old token that
    is heard after a newer one is another host's. When but one of them has been heard for `HOLD` seconds, it has
    the name for itself again. Threads may use it together.
    """

    def __init__(self) -> None:
        self._heard: dict[str, dict[str, tuple[float, float]]] = {}
        """Of each name's tokens, in the order of their coming: when it was heard first and last."""
        self._lock = threading.Lock()

    def hear(self, name: str, token: str, registered: str | None = None) -> None:
        """Note that a host has said something.

        Args:
            name: the host's, proved by its certificate.
            token: of the process that has said it.
            registered: the token that was given out last under this name, if that is known.
        """
        now = time.monotonic()
        with self._lock:
            tokens = self._fresh(name, now)
            for each in (registered, token):
                if each is not None and each not in tokens:
                    tokens[each] = now, now
            tokens[token] = tokens[token][0], now
            self._heard[name] = tokens

    def has(self, name: str) -> bool:
        """Whether two hosts have this name."""
        now = time.monotonic()
        with self._lock:
            return _is_shared(self._fresh(name, now))

    def names(self) -> list[str]:
        """The names that two hosts have."""
        return sorted(name for name in list(self._heard) if self.has(name))

    def _fresh(self, name: str, now: float) -> dict[str, tuple[float, float]]:
        tokens = self._heard.get(name, {})
        return {token: (first, last) for token, (first, last) in tokens.items() if now - last < HOLD}


def _is_shared(tokens: Mapping[str, tuple[float, float]]) -> bool:
    """Whether an older token was heard after a newer one came."""
    return any(last >= came for (_, last), (came, _) in pairwise(tokens.values()))
