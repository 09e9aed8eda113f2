"""The fleet: the sites that train together, and the sites held out as unseen."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.loaders import Batches, Chain
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.datamodules.site import SiteData
from fml_lightning.errors import UserError
from fml_lightning.names import machines_named
from fml_lightning.preprocessing.preprocessing import TOLERANCE, Preprocessing
from fml_lightning.preprocessing.statistics import Statistics, Sums
from fml_lightning.types import Episode

log = logging.getLogger(__name__)


@runtime_checkable
class SitePart(Protocol):
    """What a data set holds of one site."""

    @property
    def site(self) -> str:
        """The site's name."""
        ...

    @property
    def unseen(self) -> bool:
        """Held out: never trained on, only tested and personalized."""
        ...

    def open(self, fleet: Fleet) -> SiteData:
        """The site, with the fleet's preprocessing and episodes."""
        ...


@dataclass(frozen=True)
class SiteRecordings:
    """What a site has recorded, once and for all: a `SitePart`."""

    site: str
    """The site's name."""
    unseen: bool
    """Held out: never trained on, only tested and personalized."""
    recordings: Sequence[Recording] | Callable[[], Sequence[Recording]]
    """Of all its machines, or what reads them once the site is opened; classes are indices into the fleet's."""

    def open(self, fleet: Fleet) -> SiteData:
        """The site, with the fleet's preprocessing and episodes."""
        recordings = self.recordings() if callable(self.recordings) else self.recordings
        return SiteData(self.site, recordings, fleet.preprocessing, fleet.episodes)


class Fleet(LightningDataModule):
    """A named set of sites. Its batches are for a `Federation`: each is the mapping of all sites by name.

    A data set says in `read` what its sites recorded, and in `classes` what the labels mean.

    Args:
        preprocessing: what turns a machine's signals into what the network sees.
        episodes: how episodes are drawn.
    """

    classes: tuple[str, ...]
    """Name of each class; a label is an index into them. Of targets that are numbers, the one name of these."""
    target_unit: str | None = None
    """The unit of targets that are numbers, such as `cycles`; None: they have none, or nobody says."""

    def __init__(self, preprocessing: Preprocessing, episodes: Episodes) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.episodes = episodes
        self.sites: dict[str, SiteData] = {}
        self.unseen: dict[str, SiteData] = {}
        self._fitted: Statistics | None = None
        """Of the data of the training sites, where `preprocessing` is standardized by them."""

    @abstractmethod
    def read(self) -> Iterator[SitePart]:
        """What there is of every site, training and unseen; names are unique."""

    def setup(self, stage: str) -> None:
        """Read the data set, once. Each site computes its windows and features when it first works.

        Where `preprocessing` is standardized by the training sites, their early parts are summed up here. If
        anything is raised, the fleet is left as it was: what was wrong can be mended, and `setup` called again.

        Raises:
            UserError: there is no site to train on, or what was read does not fit together.
        """
        if self.sites:
            return
        before = vars(self).copy()
        try:
            self._open()
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def check_sites(self, sites: Mapping[str, SiteData], unseen: Mapping[str, SiteData]) -> None:
        """See that sites fit together, once all are open; nothing, unless a data set says what that means.

        Raises:
            UserError: they do not.
        """

    def _open(self) -> None:
        sites: dict[str, SiteData] = {}
        unseen: dict[str, SiteData] = {}
        for part in self._parts():
            if part.site in sites or part.site in unseen:
                raise UserError(f"{self._name}: two sites are called {part.site!r}; rename one of them")
            (unseen if part.unseen else sites)[part.site] = self._opened(part)
        if not sites:
            raise UserError(f"{self._name}: no site is left to train on; hold out fewer as unseen")
        self.check_sites(sites, unseen)
        standardize = self.preprocessing.standardize
        if standardize and standardize.statistics is None:
            sums = {name: site.early_sums().weighted(site.weight) for name, site in sites.items()}
            self._fitted = Sums.of_sites(sums).statistics()
            self._standardize([*sites.values(), *unseen.values()], self._fitted)
        self.sites, self.unseen = sites, unseen

    def _standardize(self, sites: Iterable[SiteData], statistics: Statistics) -> None:
        for site in sites:
            site.standardize_by(statistics)
        assert self.preprocessing.standardize is not None
        standardize = replace(self.preprocessing.standardize, statistics=statistics)
        self.preprocessing = replace(self.preprocessing, standardize=standardize)

    def standardize_by(self, statistics: Statistics) -> bool:
        """Standardize by the statistics that a run was trained with, not by those of the data at hand.

        One sentence is logged where these differ.

        Args:
            statistics: as the run's checkpoint has them.

        Returns:
            Whether the fleet is standardized by training sites; if not, it stays as it is.
        """
        standardize = self.preprocessing.standardize
        if self._fitted is None or standardize is None:
            return False
        if standardize.statistics == statistics:
            return True
        self._standardize([*self.sites.values(), *self.unseen.values()], statistics)
        if difference := statistics.difference(self._fitted):
            log.warning(
                "%s: features are standardized by the checkpoint's statistics; those of the training sites' data"
                " at hand are others (%s), as the data have changed since, or are another fleet's",
                self._name,
                difference,
            )
        return True

    def site(self, name: str) -> SiteData:
        """One site alone, training or unseen; no recording of another one is opened.

        A data set whose classes, categories or alphabet follow from its data looks these up at all sites, unless
        they are given.

        If features are standardized by the training sites, whose means only `setup` knows, the site must be told
        them: by `standardize.statistics`, or by `SiteData.standardize_by`, as real sites are in each round.

        Raises:
            UserError: there is no such site, or what was read of it does not fit together.
        """
        others = []
        for part in self._parts():
            if part.site == name:
                return self._opened(part)
            others.append(part.site)
        raise UserError(f"{self._name}: no site {name!r}; there are {', '.join(others) or 'none'}")

    def prepare_site(self, name: str) -> None:
        """Do for one site what `prepare_data` does for all, such as record, until `teardown`; open nothing."""
        self.prepare_data()

    def train_dataloader(self) -> Iterable[Mapping[str, SiteData]]:
        """One batch, one round: the training sites."""
        return Batches([self.sites])

    def val_dataloader(self) -> Iterable[Mapping[str, SiteData]]:
        """The training sites, which judge on late windows."""
        return Batches([self.sites])

    def test_dataloader(self) -> Iterable[Mapping[str, SiteData]]:
        """The unseen sites."""
        return Batches([self.unseen])

    def predict_dataloader(self) -> Iterable[Episode]:
        """One task per machine of the unseen sites."""
        return Chain([site.predict_dataloader() for site in self.unseen.values()])

    def site_of(self, machine: str) -> SiteData:
        """The site a machine is at, as `machine_at` finds it.

        Raises:
            UserError: there is no such machine, or there are several.
        """
        return self.machine_at(machine)[0]

    def machine_at(self, machine: str) -> tuple[SiteData, str]:
        """The site a machine is at, and its name there; unseen sites come first.

        Args:
            machine: MACHINE, or SITE/MACHINE, as machines of several sites may have one name.

        Raises:
            UserError: there is no such machine, or there are several.
        """
        self.setup("predict")
        places = {
            (site.name, name): site
            for site in (*self.unseen.values(), *self.sites.values())
            for name in site.machine_names
        }
        found = machines_named(places, machine)
        found = [each for each in found if each[0] in self.unseen] or found
        if len(found) > 1:
            named = ["/".join(each) for each in found]
            raise UserError(f"{machine} is the name of several machines; ask for one of {', '.join(named)}")
        for place in found:
            return places[place], place[1]
        trained = [name for site in self.sites.values() for name in site.machine_names]
        raise UserError(
            f"no machine {machine!r}; unseen machines are {', '.join(self.unseen_machines())}, training machines"
            f" are {', '.join(trained)}"
        )

    def unseen_machines(self) -> list[str]:
        """Names of the machines at unseen sites."""
        return [name for _, name in self.unseen_machines_at()]

    def unseen_machines_at(self) -> list[tuple[SiteData, str]]:
        """The machines at unseen sites: each one's site, and its name there."""
        self.setup("predict")
        return [(site, name) for site in self.unseen.values() for name in site.machine_names]

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _parts(self) -> Iterator[SitePart]:
        """What `read` gives, checked."""
        self.classes = checked_classes(self._name, getattr(self, "classes", None))
        self.episodes = with_normal(self._name, self.episodes, self.classes)
        parts = self.read()
        if not isinstance(parts, Iterable):
            raise UserError(f"{self._name}: expected read() to give the parts of sites, got {parts!r}")
        for part in parts:
            if not isinstance(part, SitePart):
                raise UserError(
                    f"{self._name}: expected read() to give SiteRecordings, one for each site, got"
                    f" {type(part).__name__}"
                )
            yield part

    def _opened(self, part: SitePart) -> SiteData:
        site = part.open(self)
        site.tells_sums |= self._fitted is not None
        numbers = [recording for recording in site.recordings if recording.is_number]
        if numbers and len(numbers) < len(site.recordings):
            other = next(recording for recording in site.recordings if not recording.is_number)
            raise UserError(
                f"{self._name}, {site.name}: the target of {numbers[0]} is a number, and that of {other} is none;"
                " give all recordings the same kind of target"
            )
        for recording in site.recordings:
            recording.told(site.preprocessing.needs)  # raises here, rather than in a round, where one is not known
            if recording.label >= len(self.classes):
                raise UserError(
                    f"{self._name}, {site.name}: the recording {recording} has the label {recording.label};"
                    f" expected the index of one of the {len(self.classes)} classes {', '.join(self.classes)}"
                )
        return site


def refuse_mixed(sites: Iterable[SiteData]) -> None:
    """See that recordings have one sample rate and one unit, where the sites' preprocessing tells none.

    Else the rate or the unit might tell the class, or the site. Recordings of which nobody says the unit fit any.

    Args:
        sites: of one preprocessing.

    Raises:
        UserError: they have several.
    """
    first: Recording | None = None
    of_unit: Recording | None = None
    for site, recording in ((each, recording) for each in sites for recording in each.recordings):
        first = first or recording
        rate, expected = recording.sample_rate, first.sample_rate
        if site.preprocessing.sample_rate is None and abs(rate / expected - 1) > TOLERANCE:
            raise UserError(
                f"{recording}: expected {expected:g} Hz as of {first}, got {rate:g} Hz; set sample_rate, and of"
                " Files resample: true too, to convert the others"
            )
        if site.preprocessing.unit is not None or recording.unit is None:
            continue
        of_unit = of_unit or recording
        if recording.unit != of_unit.unit:
            raise UserError(
                f"{recording}: expected samples in {of_unit.unit} as of {of_unit}, got {recording.unit}; convert"
                " them, or mend the unit"
            )


def checked_classes(fleet: str, classes: object) -> tuple[str, ...]:
    """The names of a fleet's classes.

    Args:
        fleet: whose, for messages.
        classes: what ought to be names, each once.

    Raises:
        UserError: they are not.
    """
    if (
        not isinstance(classes, Sequence)
        or isinstance(classes, str)
        or not classes
        or not all(isinstance(name, str) and name for name in classes)
    ):
        raise UserError(f"{fleet}: expected the names of its classes, in order of their labels, got {classes!r}")
    if len(set(classes)) < len(classes):
        raise UserError(f"{fleet}: expected the names of its classes, each once, got {classes!r}")
    return tuple(classes)


def with_normal(fleet: str, episodes: Episodes, classes: Sequence[str]) -> Episodes:
    """Episodes whose class of normal operation is an index into a fleet's classes.

    Raises:
        UserError: it is none of them.
    """
    normal = episodes.normal
    if isinstance(normal, str):
        if normal not in classes:
            raise UserError(f"{fleet}: expected episodes.normal to be one of {', '.join(classes)}, got {normal!r}")
        return replace(episodes, normal=list(classes).index(normal))
    if normal is not None and not 0 <= normal < len(classes):
        raise UserError(f"{fleet}: expected episodes.normal below {len(classes)}, got {normal}")
    return episodes
