"""Fleets that train together as one, such as simulated machines beside a plant's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SitePart, refuse_mixed
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.site import SiteData
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.shaft_speed import ShaftSpeed
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.windowing import Windowing


@dataclass(frozen=True)
class JoinedPart:
    """A site of one of the fleets: a `SitePart`."""

    part: SitePart
    """What that fleet holds of it."""
    weight: float
    """How much each of its windows counts, times what that fleet says of it."""
    labels: Sequence[int]
    """The joined fleet's class of each of that fleet's classes."""

    @property
    def site(self) -> str:
        """The site's name."""
        return self.part.site

    @property
    def unseen(self) -> bool:
        """Held out: never trained on, only tested and personalized."""
        return self.part.unseen

    def open(self, fleet: Fleet) -> SiteData:
        """The site, with the joined fleet's preprocessing, episodes and classes.

        Raises:
            UserError: its data cannot be preprocessed as those of the others.
        """
        data = self.part.open(fleet)
        if data.preprocessing is not fleet.preprocessing:
            raise UserError(
                f"JoinedFleets, {self.site}: expected recordings that are cut as those of the other fleets, got"
                f" {type(data).__name__}, which cuts its own; leave its fleet out"
            )
        for recording in data.recordings:
            fleet.preprocessing.check(recording.shape[0], recording.sample_rate, recording.unit, str(recording))
        refuse_mixed([data])
        data.weight *= self.weight
        if list(self.labels) != list(range(len(self.labels))):
            data.recordings = [self._relabelled(recording) for recording in data.recordings]
        return data

    def _relabelled(self, recording: Recording) -> Recording:
        if not isinstance(recording.target, int):
            return recording
        if recording.target >= len(self.labels):
            raise UserError(
                f"JoinedFleets, {self.site}: the recording {recording} has the label {recording.target}; expected"
                f" the index of one of its fleet's {len(self.labels)} classes"
            )
        return replace(recording, target=self.labels[recording.target])


class JoinedFleets(Fleet):
    """Several fleets as one: their sites train together or are held out, with one preprocessing and `episodes`.

    Classes are those of the fleet that has the most; every other fleet's are some of them, by their names, in any
    order. The fleets' own preprocessing and episodes are not used, but for what they hold out. A `SpoolFleet` or a
    `Table` cannot be joined yet: their windows and rows are not cut from recordings as those of the others.

    Each training window of a site counts with the site's weight: in the mean of the sites' updates, where a site
    of n windows and weight w counts w · n (`WeightedMean`), and in the means and deviations that features are
    standardized by. So a large simulated site need not outweigh the plant's own. Weights change neither how often
    a cohort draws a site nor what is validated: each site's metrics count alike.

    Args:
        fleets: by names of your own. No site's name may be in two of them.
        weights: by the name of a fleet, for each of its sites, or of a single site; above 0, and 1 unless you say
            otherwise.
        unseen: the held-out sites that are tested and personalized, by their names or those of their fleets; the
            other held-out sites are left out. null: all that the fleets hold out.
        sample_rate: Hz that all recordings are brought to; null: all have to be of one rate.
        unit: the samples' unit, such as `g`; null: that of the recordings that tell theirs, which has to be one.
        channels: names of the recordings' channels, in their order; none: there is one.
        windowing: how recordings become windows.
        features: what the network sees of a window; 128 `LogBandPowers` unless you say otherwise.
        inputs: what is told of recordings, such as `speed`, that the network sees beside the features.
        standardize: how features are standardized; null: not at all.
        shaft_speed: find the shaft's speed in the first channel, within `tolerance` of the told `speed`, which is
            often 2 to 8 % off; it needs 60 revolutions on each side of the split in time, and a recording in which
            none is found is refused. null: take the told one as it is.
        episodes: how episodes are drawn.
    """

    def __init__(
        self,
        fleets: dict[str, Fleet],
        weights: dict[str, float] | None = None,
        unseen: Sequence[str] | None = None,
        sample_rate: float | None = None,
        unit: str | None = None,
        channels: Sequence[str] = (),
        windowing: Windowing = Windowing(),  # noqa: B008
        features: Features | None = None,
        inputs: Sequence[str] = (),
        standardize: Standardize | None = None,
        shaft_speed: ShaftSpeed | None = None,
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        preprocessing = Preprocessing(
            windowing,
            features or LogBandPowers(),
            tuple(channels),
            sample_rate,
            unit,
            resample=sample_rate is not None,
            inputs=tuple(inputs),
            standardize=standardize,
            shaft_speed=shaft_speed,
        )
        super().__init__(preprocessing, episodes)
        if not fleets:
            raise UserError("JoinedFleets: expected at least one fleet in fleets, got none")
        self.weights = weights or {}
        for name, weight in self.weights.items():
            if not 0 < weight < math.inf:
                raise UserError(
                    f"JoinedFleets.weights: expected a finite number above 0 for {name}, got {weight}; leave the"
                    " fleet out, rather than give it none"
                )
        units = {fleet.target_unit for fleet in fleets.values()}
        if len(units) > 1:
            raise UserError(
                f"JoinedFleets: expected targets of one unit, got {', '.join(sorted(map(str, units)))}; join"
                " fleets whose targets mean the same"
            )
        (self.target_unit,) = units
        self.fleets = fleets
        self.tested = unseen
        self._found: dict[str, list[SitePart]] = {}

    def read(self) -> Iterator[SitePart]:
        """The sites of each fleet in turn."""
        if not self._found:
            self._find()
        for name, parts in self._found.items():
            labels = [self.classes.index(own) for own in self.fleets[name].classes]
            for part in parts:
                if not part.unseen or self.tested is None or {name, part.site} & set(self.tested):
                    weight = self.weights.get(part.site, self.weights.get(name, 1.0))
                    yield JoinedPart(part, weight, labels)

    def check_sites(self, sites: Mapping[str, SiteData], unseen: Mapping[str, SiteData]) -> None:
        """See that recordings have one rate and unit, and that each fleet's sites fit together as it says."""
        refuse_mixed([*sites.values(), *unseen.values()])
        for name, parts in self._found.items():
            own = {part.site for part in parts}
            of_fleet = ({site: each[site] for site in each if site in own} for each in (sites, unseen))
            self.fleets[name].check_sites(*of_fleet)

    def _parts(self) -> Iterator[SitePart]:
        self._find()
        return super()._parts()

    def _find(self) -> None:
        """Look up the sites and classes of each fleet, and see that what is said of sites fits one of them."""
        self._found = {name: list(fleet._parts()) for name, fleet in self.fleets.items()}
        self.classes = common_classes({name: fleet.classes for name, fleet in self.fleets.items()})
        sites = [part.site for parts in self._found.values() for part in parts]
        self._refuse_strange("weights", self.weights, {*self.fleets, *sites})
        held_out = {name: {part.site for part in parts if part.unseen} for name, parts in self._found.items()}
        of_fleets = {name for name, own in held_out.items() if own}
        self._refuse_strange("unseen", self.tested or (), of_fleets.union(*held_out.values()))

    @staticmethod
    def _refuse_strange(argument: str, given: Sequence[str] | Mapping[str, float], known: set[str]) -> None:
        which = "fleets and sites" if argument == "weights" else "fleets that hold out sites, and of such sites"
        for name in given:
            if name not in known:
                raise UserError(
                    f"JoinedFleets.{argument}: expected names of {which}, of {', '.join(sorted(known)) or 'none'},"
                    f" got {name!r}"
                )


def common_classes(classes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The classes of the fleet that has the most.

    Args:
        classes: of each fleet.

    Raises:
        UserError: another fleet has one that these are not.
    """
    largest = max(classes, key=lambda name: len(classes[name]))
    for name, own in classes.items():
        if strange := [each for each in own if each not in classes[largest]]:
            raise UserError(
                f"JoinedFleets: expected the classes of {name} among those of {largest}"
                f" ({', '.join(classes[largest])}), got {', '.join(strange)}; call what is the same by one name,"
                " or join other fleets"
            )
    return tuple(classes[largest])
