"""Who may see the page and act on it: host names, origins, and the token."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import Message
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

SHORTEST_TOKEN = 16
"""Characters: shorter ones could be found by trying."""
LOGIN_SECONDS = 30 * 24 * 3600
"""How long a browser stays logged in."""


@dataclass(frozen=True)
class Access:
    """Whom the page answers. All methods are functions of a request's headers."""

    names: frozenset[str]
    """Host names, in lower case, by which browsers may ask for the page."""
    loopback: bool
    """Only this host can reach the page."""
    token: str | None = field(repr=False)
    """What a browser must show once; None: nothing."""

    @property
    def cookie(self) -> str:
        """Name of the cookie of those who have shown the token: browsers keep one jar for all ports of a host."""
        return f"fml_watch_{self._seal('name')[:8]}"

    def is_own_host(self, headers: Message) -> bool:
        """Whether the request names this host: a foreign name that resolves to this address does not.

        So no page of another site reaches ours by a name of its own (DNS rebinding). An address cannot be rebound.
        """
        name = _host_name(headers)
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return address.is_loopback or not self.loopback

    def is_same_origin(self, headers: Message) -> bool:
        """Whether our own page has sent the request, or a program that shows the token, which no browser adds.

        A request that says nothing of its origin comes from none of our pages.
        """
        if self._shows_token(headers):
            return True
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        if site is None and origin is None:
            return False
        if site not in (None, "same-origin"):
            return False
        return origin is None or _netloc(origin) == (headers.get("Host") or "").strip().lower()

    def is_foreign(self, headers: Message) -> bool:
        """Whether a browser says that a page of another site asks."""
        return headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")

    def admits(self, headers: Message, now: float) -> bool:
        """Whether the request shows the token or the cookie of one who has; `now` in seconds since 1970."""
        if self.token is None or self._shows_token(headers):
            return True
        try:
            morsel = SimpleCookie(headers.get("Cookie") or "").get(self.cookie)
        except CookieError:
            return False
        until, _, seal = (morsel.value if morsel else "").partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 20):
            return False
        return _equal(seal, self._seal(until)) and now < int(until)

    def is_token(self, text: str) -> bool:
        """Whether the text is the token; takes the same time whatever the text."""
        return self.token is not None and _equal(text, self.token)

    def login(self, headers: Message, now: float) -> str:
        """The Set-Cookie header of one who has just shown the token."""
        until = str(int(now) + LOGIN_SECONDS)
        secure = "; Secure" if (headers.get("Origin") or "").startswith("https://") else ""
        return (
            f"{self.cookie}={until}.{self._seal(until)}; Path=/; Max-Age={LOGIN_SECONDS}; "
            f"HttpOnly; SameSite=Strict{secure}"
        )

    def _shows_token(self, headers: Message) -> bool:
        kind, _, text = (headers.get("Authorization") or "").partition(" ")
        return kind.lower() == "bearer" and self.is_token(text.strip())

    def _seal(self, until: str) -> str:
        return hmac.new((self.token or "").encode(), f"page {until}".encode(), sha256).hexdigest()


def _equal(one: str, other: str) -> bool:
    """Compare by digests, so that the time says nothing of the texts, not even their lengths."""
    digests = (sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (one, other))
    return hmac.compare_digest(*digests)


def _host_name(headers: Message) -> str:
    """The name or address in the Host header; empty if there is not exactly one."""
    hosts: Sequence[str] = headers.get_all("Host") or ()
    try:
        return (urlsplit(f"//{hosts[0].strip()}").hostname or "").rstrip(".") if len(hosts) == 1 else ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") else None
