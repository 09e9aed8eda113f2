"""Names that come from outside, such as a machine's from a payload, made safe for where they are shown or kept.

A name may be empty, hold 60,000 characters, a `$`, a terminal's escape sequences, or characters that turn the
direction of text around. Each function here makes one use of a name safe; the name itself is never changed. Which
machine a user means by a name, `find_machine` says.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import quote, unquote

from fml_lightning.errors import UserError

FILE_BYTES = 200
"""Longest file name without its suffix; file systems take 255 bytes in all."""
SHOWN = 48
"""Characters of a name in a table, a sentence, a log line or a page."""
UNSEEN = "-unseen"
"""Ends the name of the unseen site that machines held out of a site belong to."""
LISTED = 8
"""Machines that a sentence names at most."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""What Windows takes for a device."""
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories of controls, of what turns text around, and of what no font draws."""


def file_name(name: str) -> str:
    """A file name without suffix: readable, of at most 200 bytes, and another one for every other name.

    >>> file_name("plant5/pump 3"), file_name(".."), file_name("")
    ('plant5%2Fpump%203', '%2E%2E', '+e3b0c442')
    """
    made = quote(name, safe="", errors="surrogatepass")
    if made.strip(".") == "":
        made = made.replace(".", "%2E")  # quote itself makes neither %2E nor an escaped letter, so no two collide
    if made.startswith((".", "-")) or _RESERVED.match(made):
        made = f"%{ord(made[0]):02X}{made[1:]}"
    if made.endswith("."):
        made = f"{made[:-1]}%2E"
    if made and len(made) <= FILE_BYTES:
        return made
    digits = 8 if not made else 32  # quote makes no "+" either
    return f"{made[: FILE_BYTES - 33]}+{_hash(name, digits)}"


def registry_names(site: str) -> tuple[str, str]:
    """Under which names a site's machines may have their models: those held out of it belong to another site.

    >>> registry_names("north")
    ('north', 'north-unseen')
    """
    return site, f"{site}{UNSEEN}"


def shown(name: str, longest: int = SHOWN) -> str:
    r"""The name on one line of a terminal or a chart: what cannot be seen is escaped, what is too long is cut.

    A shortened name ends with a hash, so that two of them can be told apart.

    >>> print(shown("pump\x1b[31m\n"))
    pump\x1b[31m\n
    >>> shown("machine" * 10_000, 30)
    'machinemachinemachine…#a379702'
    """
    if not name:
        return "''"
    text = escaped(name[: longest + 1]) if len(name) > longest else escaped(name)
    if len(text) <= longest and len(name) <= longest:
        return text
    tail = f"…#{_hash(name, 7)}"
    return f"{text[: longest - len(tail)]}{tail}"


def escaped(text: str) -> str:
    r"""The whole text, with what a terminal would obey or could not show as an escape: `\x1b` for the escape.

    >>> print(escaped("a\x9bb\u202ec"))
    a\x9bb\u202ec
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def page(name: str) -> str:
    """The name in HTML, as text and in an attribute.

    >>> page('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(shown(name))


def key(name: str) -> str:
    """The name as one part of a metric's name, as every logger takes it: letters, digits, `_`, `-` and `.`.

    >>> key("pump-3"), key("pump/3")
    ('pump-3', 'pump_3-0dc11bff')
    """
    made = re.sub(r"[^A-Za-z0-9_.-]", "_", name[:SHOWN])
    return made if made == name and made else f"{made}-{_hash(name, 8)}"


def quoted(name: str) -> str:
    """The name as the last part of a metric's name, from which `unquoted` has it back: no slash is in it.

    >>> quoted("press 3/dataloader_idx_0"), quoted("plant1-machine1")
    ('press%203%2Fdataloader_idx_0', 'plant1-machine1')
    """
    return quote(name, safe="", errors="surrogatepass")


def unquoted(text: str) -> str:
    """The name that `quoted` was given.

    >>> unquoted(quoted("泵/3 %"))
    '泵/3 %'
    """
    return unquote(text, errors="surrogatepass")


def machines_named(known: Iterable[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    """Site and name of each machine that a user may mean by MACHINE, or by SITE/MACHINE.

    A machine that is held out of its site is found by the names of both, the site's and the unseen one's.

    >>> machines_named([("north", "x"), ("south-unseen", "x"), ("south-unseen", "y")], "x")
    [('north', 'x'), ('south-unseen', 'x')]
    >>> machines_named([("north", "x"), ("south-unseen", "x")], "south/x")
    [('south-unseen', 'x')]
    >>> machines_named([("north", "x"), ("north-unseen", "x")], "north/x")
    [('north', 'x')]

    Args:
        known: site and name of each machine that there is.
        name: what the user says.
    """
    known = list(known)
    found = [each for each in known if name in (each[1], "/".join(each))]
    if found:
        return found
    sites = [(site.removesuffix(UNSEEN), (site, machine)) for site, machine in known]
    return [each for site, each in sites if name in (f"{site}/{each[1]}", f"{site}{UNSEEN}/{each[1]}")]


def find_machine(known: Iterable[tuple[str, str]], name: str, expected: str) -> tuple[str, str]:
    """Site and name of the one machine that a user means (`machines_named`).

    Args:
        known: site and name of each machine that there is.
        name: what the user says.
        expected: what these machines are, such as `a machine that is watched`.

    Raises:
        UserError: there is none, or there are several.
    """
    known = sorted(known)
    found = machines_named(known, name)
    if len(found) == 1:
        return found[0]
    names = ", ".join("/".join(map(shown, each)) for each in (found or known[:LISTED])) or "none"
    more = f" and {len(known) - LISTED} more" if not found and len(known) > LISTED else ""
    what = f"{len(found)} sites have one; say which" if found else f"expected {expected}, there are"
    raise UserError(f"machine {shown(name)}: {what}{':' if found else ''} {names}{more}")


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese, Japanese and Korean characters take two.

    >>> columns("pump"), columns("泵3")
    (4, 3)
    """
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _hash(name: str, digits: int) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
