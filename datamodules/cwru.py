"""The CWRU bearing data as a fleet.

Case Western Reserve University Bearing Data Center, https://engineering.case.edu/bearingdatacenter. Accelerations
in g at the drive end and the fan end of a motor, with faults of 7 to 21 mil cut into single bearings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

from fml_lightning.datamodules.cwru_files import Bearing, Signals, open_signals
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.windowing import Windowing

SAMPLE_RATE = 12_000.0
FAULTS = ("ball", "inner", "outer")
DIAMETERS = (7, 14, 21)


@dataclass(frozen=True)
class Selection:
    """A part of the data: everything that matches all fields."""

    end: Literal["drive", "fan"] = "drive"
    """The end of the motor whose bearing is faulty; its own sensor is read."""
    loads: tuple[int, ...] = (0, 1, 2, 3)
    """Motor loads, hp."""
    diameters: tuple[int, ...] = DIAMETERS
    """Fault diameters, mil (1/1000 inch)."""
    loads_are: Literal["sites", "conditions"] = "sites"
    """`sites`: one site per load, with machines of their own. `conditions`: one site, whose machines run under
    all loads."""

    def __post_init__(self) -> None:
        if not set(self.loads) <= {0, 1, 2, 3} or not set(self.diameters) <= set(DIAMETERS):
            raise UserError(f"CWRU: expected loads of 0 to 3 and diameters of 7, 14, 21, got {self}")
        if not self.loads or not self.diameters:
            raise UserError(f"CWRU: expected at least one load and one diameter, got {self}")

    def bearings(self) -> set[tuple[str, int, int]]:
        """What is selected, as (end, load, diameter)."""
        return set(product((self.end,), self.loads, self.diameters))


class CWRU(Fleet):
    """CWRU's bearings as machines, its motor loads as sites.

    With `classes: ten`, a machine is the motor at one load with the usual ten classes (normal, and ball, inner
    and outer race faults of 7, 14, 21 mil). With `classes: faults`, a machine is one (end, load, diameter) with
    three classes: where the fault is. Outer race faults are taken at 6 o'clock where they exist, else at 3, else
    at 12. Normal recordings, 48 kHz originally, are brought to the 12 kHz of the others.

    Args:
        root: folder with `manifest.csv` and its Parquet files, or the original `.mat` files (97.mat, …) anywhere
            below it.
        unseen: what the unseen sites hold.
        train: what the training sites hold, less everything that `unseen` selects.
        classes: `ten` or `faults`.
        windowing: how recordings become windows.
        features: what the network sees of a window; 128 `LogBandPowers` unless you say otherwise.
        episodes: how episodes are drawn.
    """

    def __init__(
        self,
        root: str,
        unseen: Selection,
        train: Selection = Selection(),
        classes: Literal["ten", "faults"] = "ten",
        windowing: Windowing = Windowing(),  # noqa: B008
        features: Features | None = None,
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        super().__init__(Preprocessing(windowing, features or LogBandPowers()), episodes)
        if classes == "ten" and "fan" in (train.end, unseen.end):
            raise UserError("CWRU: the ten classes exist for the drive end only; set classes to faults")
        self.root = root
        self.train = train
        self.held_out = unseen
        self.ten = classes == "ten"
        named = [f"{fault}-{mil}mil" for fault in FAULTS for mil in DIAMETERS]
        self.classes = ("normal", *named) if self.ten else FAULTS

    def read(self) -> Iterator[SiteRecordings]:
        """One site per load, or one for all loads."""
        signals = open_signals(self.root)
        kept = self.train.bearings() - self.held_out.bearings()
        if self.ten:  # the ten classes span the diameters: a load is held out as a whole
            gone = {load for _, load, _ in self.held_out.bearings()}
            kept = {bearing for bearing in kept if bearing[1] not in gone}
        for selection, bearings in ((self.train, kept), (self.held_out, self.held_out.bearings())):
            sites: dict[str, list[tuple[str, int, int, bool]]] = {}
            for end, load, mil in sorted(bearings):
                site = end if selection.loads_are == "conditions" else f"{end}-load{load}"
                with_normal = self.ten and mil == selection.diameters[0]
                sites.setdefault(site, []).append((end, load, mil, with_normal))
            for site, own in sites.items():
                is_unseen = selection is self.held_out
                yield SiteRecordings(
                    f"{site}-unseen" if is_unseen else site, is_unseen, partial(self._site, signals, site, own)
                )

    def _site(
        self, signals: Signals, site: str, bearings: Sequence[tuple[str, int, int, bool]]
    ) -> list[Recording]:
        return [recording for bearing in bearings for recording in self._bearing(signals, site, *bearing)]

    def _bearing(
        self, signals: Signals, site: str, end: str, load: int, mil: int, with_normal: bool
    ) -> Iterator[Recording]:
        """The three faults of one diameter at one load, and the normal recording of that load."""
        machine = site if self.ten else f"{site}-{mil}mil"
        if with_normal:
            values = signals.read(Bearing("normal", "normal", load, 0))
            yield Recording(machine, f"load{load}", 0, SAMPLE_RATE, values)
        for fault in FAULTS:
            name = f"{fault}-{mil}mil" if self.ten else fault
            values = signals.read(Bearing(end, fault, load, mil))
            yield Recording(machine, f"load{load}", self.classes.index(name), SAMPLE_RATE, values)
