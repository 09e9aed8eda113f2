"""Which machines are held out as unseen: by patterns of names, or a share of the sites, drawn by seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np

from fml_lightning.errors import UserError
from fml_lightning.seeds import derive_seed


def held_out(
    owner: str, machines: Iterable[tuple[str, str]], unseen: Sequence[str] | float, seed: int
) -> set[tuple[str, str]]:
    """The machines that are never trained on, out of all (site, machine).

    Args:
        owner: whose they are, for messages.
        machines: all, as (site, machine).
        unseen: shell-style patterns of SITE, MACHINE or SITE/MACHINE; or a share of the sites, in [0, 1), of which
            at least one is held out.
        seed: draws the share of the sites.

    Raises:
        UserError: a pattern names nothing there is, or the share is none.

    >>> held_out("Table", [("a", "m1"), ("a", "m2"), ("b", "m1")], ["a/m*"], 0) == {("a", "m1"), ("a", "m2")}
    True
    """
    machines = sorted(machines)
    if isinstance(unseen, str) or not isinstance(unseen, float | int | Sequence):
        raise UserError(f"{owner}: expected unseen as a list of patterns, or a share of the sites, got {unseen!r}")
    if isinstance(unseen, float | int):
        if isinstance(unseen, bool) or not 0 <= unseen < 1:
            raise UserError(f"{owner}: expected as share of unseen sites a number in [0, 1), got {unseen}")
        sites = sorted({site for site, _ in machines})
        count = max(1, round(unseen * len(sites))) if unseen else 0
        order = np.random.default_rng(derive_seed(seed, "unseen")).permutation(len(sites))
        drawn = {sites[i] for i in order[:count]}
        return {each for each in machines if each[0] in drawn}
    found: set[tuple[str, str]] = set()
    for pattern in unseen:
        own = {names for names in machines if fits(pattern, *names)}
        if not own:
            names = [name for site, machine in machines for name in (site, machine, f"{site}/{machine}")]
            raise UserError(
                f"{owner}: unseen names {pattern!r}, which is no site, no machine and no SITE/MACHINE;"
                f" {near(pattern, dict.fromkeys(names))}"
            )
        found |= own
    return found


def fits(pattern: str, site: str, machine: str) -> bool:
    """Whether a shell-style pattern of SITE, MACHINE or SITE/MACHINE is of a machine.

    >>> fits("north/m*", "north", "m1"), fits("north", "north", "m1"), fits("m2", "north", "m1")
    (True, True, False)
    """
    return any(fnmatchcase(name, pattern) for name in (site, machine, f"{site}/{machine}"))


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
