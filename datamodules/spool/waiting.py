"""Waiting for sites whose data grow: until enough of them have windows to draw tasks from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.site import SiteData
from fml_lightning.errors import NotYetError, UserError

POLL = 0.2
"""Seconds between two looks for new data, while nothing can be done without."""

Sites = Callable[[], Mapping[str, SiteData]]
"""The sites there are at the moment, by name."""
Drawable = Callable[[SiteData], Sequence[MachineWindows]]
"""The machines of a site that tasks can be drawn from; raises a `UserError` where there is none."""


def wait_for(sites: Sites, machines: Drawable, quorum: int, max_wait: float) -> Mapping[str, SiteData]:
    """The sites, as soon as `quorum` of them have machines; meanwhile the screen says what is missing.

    Args:
        sites: asked again at every look, for machines may have come.
        machines: what a site needs some of.
        quorum: how many sites; all, where there are fewer.
        max_wait: seconds to wait.

    Raises:
        NotYetError: `max_wait` is over.
        UserError: time alone would not help.
    """
    began = time.monotonic()
    bar = None
    try:
        while True:
            ready, reasons = ready_sites(sites(), machines)
            present = sites()  # the look has taken in what arrived
            if len(ready) >= min(quorum, len(present)):
                return present
            waited = time.monotonic() - began
            missing = "; ".join(str(reason) for reason in reasons)
            if reasons and not any(isinstance(reason, NotYetError) for reason in reasons):
                raise UserError(f"SpoolFleet: too few sites can work; {missing}")
            if waited >= max_wait:
                raise NotYetError(
                    f"SpoolFleet: {len(ready)} of {quorum} sites have enough windows after {waited:.0f} s"
                    f" (max_wait); {missing}"
                )
            if bar is None:
                bar = tqdm(bar_format="waiting for data, {elapsed}: {desc}", leave=False)
            bar.set_description_str(missing)
            time.sleep(min(POLL, max_wait - waited))
    finally:
        if bar is not None:
            bar.close()


def ready_sites(sites: Mapping[str, SiteData], machines: Drawable) -> tuple[list[str], list[UserError]]:
    """The names of the sites that have machines by now, and why the others have none."""
    ready, reasons = [], []
    for name, site in sites.items():
        try:
            machines(site)
        except UserError as error:
            reasons.append(error)
        else:
            ready.append(name)
    return ready, reasons
