"""A rolling-element bearing's geometry, and the orders that its faults repeat at.

McFadden and Smith, Model for the vibration produced by a single point defect in a rolling element bearing, Journal
of Sound and Vibration 96, 1984, https://doi.org/10.1016/0022-460X(84)90595-9. The inner ring turns with the shaft,
the outer one stands still, and nothing slips: real faults repeat up to about 1 % beside these orders.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches

from fml_lightning.errors import UserError

INPUTS = ("bpfo", "bpfi", "bsf", "ftf")
"""Names under which a bearing's orders are told of a recording."""


@dataclass(frozen=True)
class Bearing:
    """A bearing by its dimensions.

    >>> Bearing.named("SKF 6205-2RS").bpfo
    3.5848

    Raises:
        UserError: no bearing has such dimensions.
    """

    balls: int
    """Number of rolling elements n, of one row."""
    ratio: float
    """Diameter of the rolling elements over pitch diameter, d/D."""
    contact_angle: float = 0.0
    """Degrees α between the line of contact and the plane of the rolling elements; 0 of a deep-groove bearing."""
    published: tuple[float, float, float, float] | None = None
    """The four orders as the source of a bearing prints them, taken in place of those that its dimensions give."""

    def __post_init__(self) -> None:
        if self.balls != int(self.balls) or self.balls < 2:
            raise UserError(f"Bearing.balls: expected a whole number of at least 2, got {self.balls}")
        if not 0 < self.ratio < 1:
            raise UserError(
                f"Bearing.ratio: expected ball diameter over pitch diameter, between 0 and 1, got {self.ratio}"
            )
        if not 0 <= self.contact_angle < 90:
            raise UserError(
                f"Bearing.contact_angle: expected degrees from 0 to less than 90, got {self.contact_angle}"
            )
        if self.published and not (len(self.published) == 4 and all(0 < x < math.inf for x in self.published)):
            raise UserError(
                f"Bearing.published: expected the four orders {', '.join(INPUTS)}, got {self.published}"
            )

    @classmethod
    def named(cls, name: str) -> Bearing:
        """A bearing of the table by its designation; makers before it, seals and clearances after it are ignored.

        >>> Bearing.named("NTN 6203LLU/C3") == Bearing.named("6203")
        True

        Raises:
            UserError: it is not in the table.
        """
        for known, bearing in TABLE.items():
            if re.search(rf"(?<![A-Z0-9])({'|'.join(MAKERS)})?{known}(?![0-9])", name.upper()):
                return bearing
        near = get_close_matches(name.upper(), TABLE, cutoff=0.0)
        raise UserError(
            f"Bearing: {name!r:.60} is not in the table, where {', '.join(near)} come nearest; tell its"
            " dimensions: Bearing(balls=9, ratio=7.94 / 39.04)"
        )

    @property
    def bpfo(self) -> float:
        """Balls that pass a point of the outer race per revolution of the shaft: n/2 · (1 − d/D · cos α).

        >>> round(Bearing(balls=9, ratio=7.94 / 39.04).bpfo, 3)
        3.585
        """
        return self.published[0] if self.published else self.balls / 2 * (1 - self._contact)

    @property
    def bpfi(self) -> float:
        """Balls that pass a point of the inner race per revolution: n/2 · (1 + d/D · cos α)."""
        return self.published[1] if self.published else self.balls / 2 * (1 + self._contact)

    @property
    def bsf(self) -> float:
        """Spins of a ball per revolution: D/2d · (1 − (d/D · cos α)²); its fault strikes twice per spin.

        >>> round(2 * Bearing(balls=9, ratio=7.94 / 39.04).bsf, 3)
        4.713
        """
        return self.published[2] if self.published else (1 - self._contact**2) / (2 * self.ratio)

    @property
    def ftf(self) -> float:
        """Turns of the cage per revolution: ½ · (1 − d/D · cos α); a ball passes the load zone as often."""
        return self.published[3] if self.published else (1 - self._contact) / 2

    @property
    def inputs(self) -> dict[str, float]:
        """The four orders by name, as a recording's `inputs` tell them."""
        return {name: getattr(self, name) for name in INPUTS}

    @property
    def _contact(self) -> float:
        return self.ratio * math.cos(math.radians(self.contact_angle))


MAKERS = ("FAG", "INA", "KOYO", "LDK", "MB", "MRC", "NACHI", "NSK", "NTN", "REXNORD", "SKF", "SNR", "TIMKEN")
TABLE = {
    # CWRU, drive and fan end, https://engineering.case.edu/bearingdatacenter: inches, and orders.
    "6205": Bearing(9, 0.3126 / 1.537, published=(3.5848, 5.4152, 4.7135 / 2, 0.39828)),
    "6203": Bearing(8, 0.2656 / 1.122, published=(3.0530, 4.9469, 3.9874 / 2, 0.3817)),
    # MFPT's test rig, https://www.mfpt.org/fault-data-sets/: inches.
    "NICE": Bearing(8, 0.235 / 1.245),
    # XJTU-SY, Wang et al. 2018, https://doi.org/10.1109/TR.2018.2882682: mm.
    "UER204": Bearing(8, 7.92 / 34.55),
    # IMS, Qiu et al. 2006, https://doi.org/10.1016/j.jsv.2005.03.007: inches, rollers, each of two rows.
    "ZA-2115": Bearing(16, 0.331 / 2.815, 15.17),
}
"""Bearings of public data by their designation. Makers choose balls freely: the orders of another maker's bearing
of the same designation may differ in the third digit."""
