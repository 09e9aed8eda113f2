"""The CWRU bearing data as a fleet.

Case Western Reserve University Bearing Data Center, https://engineering.case.edu/bearingdatacenter. Accelerations
in g at the drive end and the fan end of a motor, with faults of 7 to 21 mil cut into single bearings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Literal

from fml_lightning.bearing import Bearing
from fml_lightning.datamodules import cwru_files
from fml_lightning.datamodules.cwru_files import Signals, open_signals
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.site import SiteData
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.shaft_speed import ShaftSpeed
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.windowing import Windowing

SAMPLE_RATE = 12_000.0
FAULTS = ("ball", "inner", "outer")
DIAMETERS = (7, 14, 21)
BEARINGS = {"drive": Bearing.named("6205"), "fan": Bearing.named("6203")}
"""The bearing of each end."""
Normals = Literal["none", "whole", "split"] | tuple[float, float, float]
"""What a machine has of the normal recording of its end and load: `split` is all of it, parted by `early_share`
without a gap. Or where its early stretch begins, its late one begins, and its late one ends, as shares of it."""
Recorded = tuple[str, int, int, Normals]
"""End, load and diameter of a machine, and its normals."""
TRAINS: Normals = (0.0, 0.4, 0.7)
"""Where machines that train have the normal recording that machines which are held out have too."""
HELD_OUT: Normals = (0.4, 0.7, 1.0)
"""Where those have it that are held out."""


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


@dataclass(frozen=True)
class CWRUPart:
    """What was recorded at a site: a `SitePart`."""

    site: str
    unseen: bool
    """Held out: never trained on, only tested and personalized."""
    recordings: Callable[[float], Sequence[Recording]]
    """Reads them, with the early share of normal recordings, which is that of the fleet the site is opened for."""

    def open(self, fleet: Fleet) -> SiteData:
        """The site, with the fleet's preprocessing and episodes."""
        recordings = self.recordings(fleet.episodes.early_share)
        return SiteData(self.site, recordings, fleet.preprocessing, fleet.episodes)


class CWRU(Fleet):
    """CWRU's bearings as machines, its motor loads as sites.

    With `classes: ten`, a machine is the motor at one load with the usual ten classes (normal, and ball, inner
    and outer race faults of 7, 14, 21 mil). With `classes: faults`, a machine is one (end, load, diameter) with
    three classes: where the fault is. With `classes: normal and faults`, such a machine also has the normal
    recording of its end and load: four classes, normal, ball, inner and outer, as `SimulatedFleet` has them. Outer
    race faults are taken at 6 o'clock where they exist, else at 3, else at 12. Normal recordings, 48 kHz
    originally, are brought to the 12 kHz of the others. Each recording tells its `speed` (Hz, as measured, else
    the nominal one) and the fault orders `bpfo`, `bpfi`, `bsf` and `ftf` of its end's bearing, for features that
    need them.

    There is one normal recording per end and load, of one motor, which the machines of all diameters share. Where
    some of these train and others are held out (`unseen: {diameters: [14]}`), nothing that a held-out machine
    adapts on or is judged by has been trained on: those that train learn from the first 40 % of the recording and
    are validated on the next 30 %; these are the support of those held out, whose queries are the last 30 %. With
    `normal and faults`, the early and the late stretch of a normal recording follow one another without the usual
    gap of a window, since that of the fan end at load 2 lasts 2.5 s; no window has samples of both.

    Args:
        root: folder with `manifest.csv` and its Parquet files, or the original `.mat` files (97.mat, …) anywhere
            below it.
        unseen: what the unseen sites hold.
        train: what the training sites hold, less everything that `unseen` selects; the same as `unseen` where this
            fleet only tests what others train (`JoinedFleets`).
        classes: `ten`, `faults`, or `normal and faults`.
        windowing: how recordings become windows.
        features: what the network sees of a window; 128 `LogBandPowers` unless you say otherwise.
        standardize: how features are standardized; null: not at all.
        shaft_speed: find the shaft's speed in the first channel, within `tolerance` of the told `speed`, which is
            often 2 to 8 % off; it needs 60 revolutions on each side of the split in time, and a recording in which
            none is found is refused. null: take the told one as it is.
        episodes: how episodes are drawn.
    """

    def __init__(
        self,
        root: str,
        unseen: Selection,
        train: Selection = Selection(),
        classes: Literal["ten", "faults", "normal and faults"] = "ten",
        windowing: Windowing = Windowing(),  # noqa: B008
        features: Features | None = None,
        standardize: Standardize | None = None,
        shaft_speed: ShaftSpeed | None = None,
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        preprocessing = Preprocessing(
            windowing, features or LogBandPowers(), standardize=standardize, shaft_speed=shaft_speed
        )
        super().__init__(preprocessing, episodes)
        if classes == "ten" and "fan" in (train.end, unseen.end):
            raise UserError(
                "CWRU: the ten classes exist for the drive end only; set classes to faults, or normal and faults"
            )
        self.root = root
        self.train = train
        self.held_out = unseen
        self.ten = classes == "ten"
        named = [f"{fault}-{mil}mil" for fault in FAULTS for mil in DIAMETERS]
        self.classes = {"ten": ("normal", *named), "faults": FAULTS}.get(classes, ("normal", *FAULTS))

    def read(self) -> Iterator[CWRUPart]:
        """One site per load, or one for all loads."""
        signals = open_signals(self.root)
        kept = self.train.bearings() - self.held_out.bearings()
        if self.ten:  # the ten classes span the diameters: a load is held out as a whole
            gone = {load for _, load, _ in self.held_out.bearings()}
            kept = {bearing for bearing in kept if bearing[1] not in gone}
        shared = {each[:2] for each in kept} & {each[:2] for each in self.held_out.bearings()}
        for selection, bearings in ((self.train, kept), (self.held_out, self.held_out.bearings())):
            is_unseen = selection is self.held_out
            sites: dict[str, list[Recorded]] = {}
            for end, load, mil in sorted(bearings):
                site = end if selection.loads_are == "conditions" else f"{end}-load{load}"
                normals: Normals = "split"
                if "normal" not in self.classes or (self.ten and mil != selection.diameters[0]):
                    normals = "none"
                elif self.ten:
                    normals = "whole"
                elif (end, load) in shared:
                    normals = HELD_OUT if is_unseen else TRAINS
                sites.setdefault(site, []).append((end, load, mil, normals))
            for site, own in sites.items():
                yield CWRUPart(
                    f"{site}-unseen" if is_unseen else site, is_unseen, partial(self._site, signals, site, own)
                )

    def _site(
        self, signals: Signals, site: str, recorded: Sequence[Recorded], early_share: float
    ) -> list[Recording]:
        return [
            recording
            for end, load, mil, normals in recorded
            for recording in self._bearing(
                signals, site, end, load, mil, (0.0, early_share, 1.0) if normals == "split" else normals
            )
        ]

    def _bearing(
        self, signals: Signals, site: str, end: str, load: int, mil: int, normals: Normals
    ) -> Iterator[Recording]:
        """The three faults of one diameter at one load, and what is asked for of that load's normal recording."""
        machine = site if self.ten else f"{site}-{mil}mil"

        def recording(fault: str, label: str, diameter: int) -> Recording:
            of = cwru_files.Signal("normal" if (end, fault) == ("drive", "normal") else end, fault, load, diameter)
            inputs = {"speed": signals.speed(of), **BEARINGS[end].inputs}
            target = self.classes.index(label)
            return Recording(machine, f"load{load}", target, SAMPLE_RATE, signals.read(of), inputs=inputs)

        if normals != "none":
            whole = recording("normal", "normal", 0)
            yield from _stretches(whole, *normals) if isinstance(normals, tuple) else [whole]
        for fault in FAULTS:
            yield recording(fault, f"{fault}-{mil}mil" if self.ten else fault, mil)


def _stretches(whole: Recording, early: float, late: float, end: float) -> Iterator[Recording]:
    """What is learnt from and what is judged by, of a recording whose stretches begin and end at some shares."""
    values = whole.load()
    borders = [int(share * values.shape[1]) for share in (early, late, end)]
    yield replace(whole, values=values[:, borders[0] : borders[1]], part="early")
    yield replace(whole, values=values[:, borders[1] : borders[2]], part="late")
