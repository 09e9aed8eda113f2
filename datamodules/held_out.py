"""What is held out as unseen: by patterns of names, or a share that is drawn by seed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from fml_lightning.errors import UserError
from fml_lightning.seeds import derive_seed

Thing = TypeVar("Thing", bound=Hashable)


Unseen = Sequence[str] | float
"""Shell-style patterns of names, or a share in [0, 1)."""
ANY_NAME = "is no site, no machine and no SITE/MACHINE"
"""What is said of a pattern that fits nothing, where patterns may be of each of these."""


def checked_unseen(owner: str, unseen: object) -> tuple[str, ...] | float:
    """What a user gave as `unseen`, seen to be patterns or a share.

    Args:
        owner: whose it is, for messages.
        unseen: what was given.

    Raises:
        UserError: it is neither.
    """
    if isinstance(unseen, float | int) and not isinstance(unseen, bool):
        if not 0 <= unseen < 1:
            raise UserError(f"{owner}: expected as share of what is unseen a number in [0, 1), got {unseen}")
        return unseen
    if isinstance(unseen, str) or not isinstance(unseen, Sequence) or not all(isinstance(p, str) for p in unseen):
        raise UserError(f"{owner}: expected unseen as a list of patterns of names, or a share, got {unseen!r}")
    return tuple(unseen)


def fits(patterns: Iterable[str], *names: str) -> bool:
    """Whether one of some shell-style patterns fits one of the names of a thing.

    >>> fits(["a/m*"], "a", "m1", "a/m1"), fits(["m"], "a", "m1", "a/m1")
    (True, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def fits_machine(patterns: Iterable[str], site: str, machine: str) -> bool:
    """Whether one of some patterns of SITE, MACHINE or SITE/MACHINE fits a machine."""
    return fits(patterns, site, machine, f"{site}/{machine}")


def held_out_names(
    owner: str, names: Mapping[Thing, Sequence[str]], patterns: Sequence[str], fits_none: str = ANY_NAME
) -> set[Thing]:
    """The things that patterns hold out.

    Args:
        owner: whose they are, for messages.
        names: of all things, the names that a pattern may be of.
        patterns: shell-style ones.
        fits_none: what is said of a pattern that fits nothing.

    Raises:
        UserError: a pattern fits nothing there is.
    """
    for pattern in patterns:
        if not any(fits([pattern], *own) for own in names.values()):
            known = dict.fromkeys(name for own in names.values() for name in own)
            raise UserError(f"{owner}: unseen names {pattern!r}, which {fits_none}; {near(pattern, known)}")
    return {thing for thing, own in names.items() if fits(patterns, *own)}


def held_out_share(owner: str, names: Iterable[str], share: float, seed: int) -> set[str]:
    """A share of what has names, drawn by seed: at least one and not all, if the share is above 0.

    Whether a name comes before another one depends on these two alone: a new name disturbs few of the others.

    Raises:
        UserError: there is a single name, so that nothing would be left.
    """
    names = sorted(set(names))
    if not share or not names:
        return set()
    if len(names) == 1:
        raise UserError(
            f"{owner}: unseen is a share, {share:g}, of {names[0]!r} alone, and that has to train; set unseen: 0,"
            " or add others"
        )
    drawn = sorted(names, key=lambda name: (derive_seed(seed, "unseen", name), name))
    return set(drawn[: min(max(1, round(share * len(names))), len(names) - 1)])


def held_out(owner: str, machines: Iterable[tuple[str, str]], unseen: Unseen, seed: int) -> set[tuple[str, str]]:
    """The machines that are never trained on, out of all (site, machine).

    Args:
        owner: whose they are, for messages.
        machines: all, as (site, machine).
        unseen: patterns of SITE, MACHINE or SITE/MACHINE; or a share of the sites.
        seed: draws the share of the sites.

    Raises:
        UserError: a pattern names nothing there is, or the share is none.

    >>> held_out("Table", [("a", "m1"), ("a", "m2"), ("b", "m1")], ["a/m*"], 0) == {("a", "m1"), ("a", "m2")}
    True
    """
    unseen = checked_unseen(owner, unseen)
    names = {(site, machine): (site, machine, f"{site}/{machine}") for site, machine in sorted(machines)}
    if isinstance(unseen, tuple):
        return held_out_names(owner, names, unseen)
    sites = held_out_share(owner, {site for site, _ in names}, unseen, seed)
    return {(site, machine) for site, machine in names if site in sites}


def near(name: str, names: Iterable[str]) -> str:
    """What a user may have meant by a name that is not there.

    >>> near("plnt", ["plant", "state"])
    "did you mean 'plant'?"
    >>> near("x", ["plant", "state"])
    'there are plant, state'
    """
    names = list(names)
    if close := get_close_matches(name, names, 1):
        return f"did you mean {close[0]!r}?"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"there are {', '.join(names[:20]) or 'none'}{more}"
