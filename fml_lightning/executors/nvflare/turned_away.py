"""Whom a server turns away, and why: NVFlare says it in its log alone, in words for its own developers."""

from __future__ import annotations

import re
import threading
import time

from fml_lightning.executors.nvflare.kit import Kit
from fml_lightning.executors.nvflare.namesakes import TOLD, in_use_twice
from fml_lightning.names import shown

QUIET = 600.0
"""Seconds after which the same thing is told again, if it did not happen in between: whoever is turned away tries
again every few seconds, for ever."""
_HANDSHAKE = re.compile(r"Handshake failed with error \S+ (.*)")
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED: .*|certificate signature failure")
_OTHER_NAME = re.compile(r"authenticated as '([^']*)' but claimed endpoint '([^']*)'")
_DISABLED = re.compile(r"Reject disabled client (?:registration|heartbeat): (\S+)")


class TurnedAway:
    """Hears NVFlare's log of a server, and tells each thing once, in a sentence.

    Args:
        kit: the server's.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        """When each thing happened last, by what makes it another one."""
        self._news: list[str] = []

    def line(self, text: str) -> None:
        """Take in a line of the log."""
        if (told := self._told(text)) is None:
            return
        what, sentence = told
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(what, -QUIET) >= QUIET:
                self._news.append(sentence)
            self._last[what] = now

    def news(self) -> list[str]:
        """What has not been told yet."""
        with self._lock:
            news, self._news = self._news, []
            return news

    def _told(self, text: str) -> tuple[str, str] | None:
        """What makes it another thing, and the sentence. Names come from certificates: nobody can invent many."""
        if (twice := TOLD.search(text)) is not None:
            return f"twice {twice[1]}", in_use_twice(twice[1])
        if (disabled := _DISABLED.search(text)) is not None:
            name = shown(disabled[1])
            return (
                f"disabled {name}",
                f"{name} is turned away, as it is locked out; fml server enable {name} would let it in again",
            )
        if (names := _OTHER_NAME.search(text)) is not None:
            holder, claimed = shown(names[1]), shown(names[2])
            return f"name {holder}", (
                f"a host is turned away that calls itself {claimed} with the certificate of {holder}: a site has"
                f" the name that its certificate proves; find out who does that at {holder}, or lock it out with"
                f" fml server disable {holder}"
            )
        if (handshake := _HANDSHAKE.search(text)) is not None:
            sentence = self._of_handshake(handshake[1])
            return sentence, sentence
        return None

    def _of_handshake(self, error: str) -> str:
        """Why a TLS handshake failed; whose it was is not known, as no name was proved."""
        fault = found[0] if (found := _CERTIFICATE.search(error)) is not None else None
        if fault is None:
            if "PEER_DID_NOT_RETURN_A_CERTIFICATE" in error:
                return (
                    "a host is turned away that shows no certificate: it is no site; find out who dials this port"
                )
            return (
                "a host breaks off when it sees this server's certificate: its kit is not of this server's"
                f" certificate authority {self._kit.authority}, or it is no site; its own fml site says more"
            )
        if "expired" in fault:
            return (
                "a host is turned away, as its certificate has expired: renew it there (fml provision renew); its"
                " own fml site says whose it is"
            )
        if "not yet valid" in fault:
            return (
                "a host is turned away, as its certificate is not valid yet: set the clocks; its own fml site says"
                " whose it is"
            )
        return (
            "a host is turned away, as its certificate is not of this federation's authority"
            f" {self._kit.authority}: if it is one of yours, make it a kit of this authority (fml provision"
            " request)"
        )
