"""A fleet whose data grow: every site is a spool, trained on while it fills."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SitePart, checked_classes, with_normal
from fml_lightning.datamodules.held_out import fits_machine
from fml_lightning.datamodules.loaders import Chain, OneBatch
from fml_lightning.datamodules.nameplates import Nameplates
from fml_lightning.datamodules.site import SiteData
from fml_lightning.datamodules.spool.aliases import resolve_aliases
from fml_lightning.datamodules.spool.labels import moment, read_labels
from fml_lightning.datamodules.spool.live_spool import LiveSpool
from fml_lightning.datamodules.spool.site import SpoolSite
from fml_lightning.datamodules.spool.stream import SpoolStream
from fml_lightning.errors import NotYetError, UserError
from fml_lightning.names import UNSEEN, escaped
from fml_lightning.preprocessing.features import Features, RawWindows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.windowing import Windowing
from fml_lightning.stream_timing import MAX_AGE, MAX_LATENESS, WITHIN, StreamTiming
from fml_lightning.types import Episode

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpoolPart:
    """The machines of a stream that belong to one site: a `SitePart`."""

    site: str
    unseen: bool
    """Held out: never trained on, only tested and personalized."""
    stream: SpoolStream
    """What has come so far; sites may share one."""
    holds: Callable[[str], bool]
    """Whether a machine belongs to the site, by its name."""

    def open(self, fleet: Fleet) -> SiteData:
        """The site."""
        return SpoolSite(self.site, self.stream, self.holds, fleet.episodes)


class SpoolFleet(Fleet):
    """Sites whose readings arrive while they train: round k trains on what has arrived by round k.

    A machine that is held out belongs to the unseen site `SITE-unseen`, which reads the same spool; a site that is
    held out as a whole keeps its name. A site with too few windows yet sits rounds out, or is waited for, as the
    Federation's `quorum` and `max_wait` say. Spools that no longer grow give the same numbers for the same seed.

    Args:
        spools: of each site, by the name under which its messages come, the folder of its spool, which
            `fml record` fills; or an `MQTT`, which records while a Trainer runs.
        classes: name of each class, as labels call it; windows under any other label are left out.
        channel: the channel that windows are cut from; or several, in the order in which the network sees them.
            Windows of several begin at one time, as far as time stamps tell.
        unseen: what is held out: shell-style patterns of SITE, MACHINE or SITE/MACHINE.
        labels: of each site, by its name, a CSV or Parquet file with the columns time, machine and label, beside
            the labels that come with the stream. Of two labels for one machine and time that which was said later
            holds: a file tells when in a column received, and else it is when the file was changed. Files are read
            once, when a run begins.
        since: ISO time with an offset. Windows that begin before it are left out, and windows whose label was said
            before it: a label that was given long ago, and merely still holds, confirms nothing. So a machine that
            has changed is adapted to as it is now. null: all count.
        max_windows: windows kept of every machine and class, the newest; at least 1.
        max_lateness: seconds after its own time that a reading may be received, such as one that a device stored
            while it had no line; later ones are left out.
        aliases: new names of machines by old ones, so that a renamed machine's history is one machine's: MACHINE,
            or SITE/MACHINE, to MACHINE. Where both names send at once, the first that covers a time counts.
        inputs: channels of single numbers, such as speed and load, that the network sees beside the features: the
            last value before a window's end. Features that need such a number have it of the channel of that name.
        max_age: seconds for which such a value holds; windows without one are left out.
        nameplates: by patterns as `unseen` has, numbers that are known of machines, where no channel tells them:
            `speed` and what else `inputs` or features need; `bearing`, a designation such as 6205-2RS or
            dimensions such as `{balls: 9, ratio: 0.2034}`, of which `bpfo`, `bpfi`, `bsf` and `ftf` follow. The
            speed is taken as it is told; in the signal it is looked for in recordings alone (`Files.shaft_speed`).
        within: seconds that single numbers of one row may be apart, where windows are rows.
        sample_rate: Hz that blocks must have; others are left out. null: any.
        unit: of the samples, such as `g`; blocks in another unit are left out. null: of each machine's channel its
            first one.
        resample: bring blocks of another rate to `sample_rate`, rather than leave them out.
        standardize: how channels or features are standardized, by `statistics` that are given, such as those of a
            fleet of recordings: means of a stream would change as it grows.
        windows_of: `blocks`: windows are cut from blocks of samples, as `windowing` says. `rows`: channels are
            single numbers, such as features that devices compute, and a row of them, one of each, is a window.
        windowing: how stretches of a channel become windows.
        features: what the network sees of a window; 128 `LogBandPowers` unless you say otherwise.
        episodes: how episodes are drawn; `support: first` is refused, as only the newest windows are kept.
    """

    def __init__(
        self,
        spools: Mapping[str, str | LiveSpool],
        classes: Sequence[str],
        channel: str | Sequence[str] = "vibration",
        unseen: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        since: str | None = None,
        max_windows: int = 2000,
        max_lateness: float = MAX_LATENESS,
        aliases: Mapping[str, str] | None = None,
        inputs: Sequence[str] = (),
        max_age: float = MAX_AGE,
        nameplates: Mapping[str, Mapping[str, Any]] | None = None,
        within: float = WITHIN,
        sample_rate: float | None = None,
        unit: str | None = None,
        resample: bool = False,
        standardize: Standardize | None = None,
        windows_of: Literal["blocks", "rows"] = "blocks",
        windowing: Windowing = Windowing(),  # noqa: B008
        features: Features | None = None,
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        channels = (channel,) if isinstance(channel, str) else tuple(channel)
        cut = None if windows_of == "rows" else windowing
        usual = RawWindows() if cut is None else LogBandPowers()
        if cut is None and (sample_rate is not None or unit is not None or resample):
            raise UserError(
                "SpoolFleet: expected no sample_rate, unit or resample with windows_of: rows, whose channels are"
                " single numbers, each in a unit of its own"
            )
        if standardize is not None and standardize.statistics is None:
            raise UserError(
                "SpoolFleet: expected standardize.statistics, as the means of a stream change while it grows; give"
                " those of a fleet of recordings, or leave standardize out"
            )
        super().__init__(
            Preprocessing(
                cut, features or usual, channels, sample_rate, unit, resample, tuple(inputs), standardize
            ),
            episodes,
        )
        if not isinstance(spools, Mapping) or not isinstance(labels or {}, Mapping):
            raise UserError(
                "SpoolFleet: expected spools, and labels, as a mapping from each site's name to a path, got"
                f" {spools!r} and {labels!r}"
            )
        if not isinstance(aliases or {}, Mapping):
            raise UserError(
                f"SpoolFleet: expected aliases as a mapping from old names to new ones, got {aliases!r}"
            )
        if episodes.per == "recording" or episodes.tasks_of == "conditions":
            raise UserError(
                "SpoolFleet: expected episodes of windows and machines, as a stream has neither recordings nor"
                f" operating conditions, got per: {episodes.per} and tasks_of: {episodes.tasks_of}"
            )
        if episodes.support == "first":
            raise UserError(
                "SpoolFleet: expected episodes.support: random, got first; of a stream the newest windows are"
                " kept, and a machine's first ones are forgotten"
            )
        if isinstance(unseen, str):
            raise UserError(f"SpoolFleet: expected unseen as a list of patterns, got the text {unseen!r}")
        if not spools or max_windows < 1 or not max_lateness >= 0:
            raise UserError(
                "SpoolFleet: expected at least one spool, max_windows >= 1 and max_lateness >= 0, got"
                f" {list(spools)}, {max_windows} and {max_lateness}"
            )
        for site, spool in spools.items():
            if not isinstance(spool, str | Path) and not hasattr(spool, "folder"):
                raise UserError(f"SpoolFleet, {site}: expected the folder of a spool, or an MQTT, got {spool!r}")
        if strangers := set(labels or ()) - set(spools):
            raise UserError(f"SpoolFleet: labels are of sites that have no spool: {', '.join(sorted(strangers))}")
        self.nameplates = Nameplates("SpoolFleet", nameplates)
        for what, patterns in (("unseen", unseen), ("nameplates", self.nameplates.patterns)):
            for pattern in patterns:
                of_site, _, machine = pattern.partition("/")
                if machine and not any(fnmatchcase(site, of_site) for site in spools):
                    raise UserError(
                        f"SpoolFleet.{what}: expected SITE, MACHINE or SITE/MACHINE, got {pattern!r}, and there is"
                        f" no spool of {of_site}; sites are {', '.join(spools)}"
                    )
        timing = StreamTiming(max_lateness, max_age, within)
        names = {site: resolve_aliases(aliases or {}, site, list(spools)) for site in spools}
        for site, renamed in names.items():
            for old, new in renamed.items():
                if fits_machine(unseen, site, old) and not fits_machine(unseen, site, new):
                    raise UserError(
                        f"SpoolFleet: unseen holds {old!r} out, which aliases call {new!r}; hold {new!r} out"
                    )
                if self.nameplates.of(site, old) != self.nameplates.of(site, new):
                    raise UserError(
                        f"SpoolFleet: nameplates tell of {old!r} other numbers than of {new!r}, as which aliases"
                        f" know it; name {new!r} there"
                    )
        self.spools = spools
        self.classes = checked_classes("SpoolFleet", classes)
        self.episodes = episodes = with_normal("SpoolFleet", episodes, self.classes)
        self.held_out = tuple(unseen)
        self.label_files = labels or {}
        self.streams = {
            site: SpoolStream(
                site,
                spool if isinstance(spool, str | Path) else spool.folder,
                channels,
                self.classes,
                self.preprocessing,
                episodes.early_share,
                max_windows,
                timing,
                names[site],
                partial(self.nameplates.of, site),
                _microseconds(since),
            )
            for site, spool in spools.items()
        }
        self._recording = ExitStack()
        self._labelled: frozenset[str] = frozenset()
        self._told: set[str] = set()
        self._misfits: set[tuple[str, str]] = set()  # patterns of which it was told that they fit nothing

    def read(self) -> Iterator[SpoolPart]:
        """Every spool as a training site, and as an unseen one, if machines are held out anywhere."""
        for site, stream in self.streams.items():
            if any(fnmatchcase(site, pattern) for pattern in self.held_out):
                yield SpoolPart(site, True, stream, partial(fits_machine, self.held_out, site))
                continue
            yield SpoolPart(site, False, stream, partial(_trained, self.held_out, site))
            if self.held_out:
                yield SpoolPart(f"{site}{UNSEEN}", True, stream, partial(fits_machine, self.held_out, site))

    def _opened(self, part: SitePart) -> SiteData:
        assert isinstance(part, SpoolPart)
        site = part.stream.site
        if site in self.label_files and site not in self._labelled:
            part.stream.add_labels(read_labels(self.label_files[site]))
            self._labelled = self._labelled | {site}
        return super()._opened(part)

    def prepare_data(self) -> None:
        """Begin to record, where spools are connectors.

        Lightning calls this in one process only, and `setup` in each: a spool can have one writer.
        """
        for site in self.spools:
            self._record(site)

    def prepare_site(self, name: str) -> None:
        """Begin to record at the site, where its spool is a connector."""
        self._record(name.removesuffix(UNSEEN) if name not in self.spools else name)

    def site(self, name: str) -> SiteData:
        """One site alone, as of any fleet; what has arrived there is taken in, so that its machines are known.

        Raises:
            UserError: there is no such site, or its spool cannot be read.
        """
        found = super().site(name)
        if isinstance(found, SpoolSite):
            found.stream.take_in()
        return found

    def setup(self, stage: str) -> None:
        """Take in what has arrived, so that machines are known, and tell what of it is left out, and why.

        Raises:
            UserError: a file of labels cannot be read, or a spool.
        """
        super().setup(stage)
        for stream in self.streams.values():
            stream.take_in()
            if stream.windows.machine_names:
                self._tell(stream.summary(), logging.WARNING if stream.is_doubtful else logging.INFO)
        self._tell_unknown_names()

    def teardown(self, stage: str) -> None:
        """End recording."""
        self._recording.close()

    def on_exception(self, exception: BaseException) -> None:
        """End recording."""
        self._recording.close()

    def train_dataloader(self) -> Iterable[Mapping[str, SiteData]]:
        """One batch, one round: the training sites."""

        def sites() -> Mapping[str, SiteData]:
            self._look()
            self._tell_unknown_names()
            return self._training()

        return OneBatch(sites)

    def val_dataloader(self) -> Iterable[Mapping[str, SiteData]]:
        """The training sites, which judge on late windows."""
        return OneBatch(self._training)

    def test_dataloader(self) -> Iterable[Mapping[str, SiteData]]:
        """The unseen sites."""

        def sites() -> Mapping[str, SiteData]:
            self._look()
            return self._held_out()

        return OneBatch(sites)

    def predict_dataloader(self) -> Iterable[Episode]:
        """One task per machine of the unseen sites that has enough windows.

        Raises:
            NotYetError: none has so far.
            UserError: no site can be read.
        """
        self._look()
        loaders, reasons = [], []
        for site in self._held_out().values():
            try:
                site.evaluated_machines()
            except UserError as error:
                reasons.append(error)
            else:
                loaders.append(site.predict_dataloader())
        if not loaders:
            kind = NotYetError if any(isinstance(reason, NotYetError) for reason in reasons) else UserError
            raise kind(f"SpoolFleet: no unseen machine can be predicted; {'; '.join(map(str, reasons))}")
        return Chain(loaders)

    def machine_at(self, machine: str) -> tuple[SiteData, str]:
        """The site a machine is at, and its name there.

        Args:
            machine: MACHINE, or SITE/MACHINE, as machines of several sites may have one name; of a machine that is
                held out of its site, both that site's name and the unseen one's are its site.

        Raises:
            UserError: there is no such machine so far, or there are several of that name.
        """
        for site, stream in self.streams.items():
            if (new := stream.aliases.get(machine)) is not None:
                raise UserError(f"{machine} is called {new} at {site} (aliases); ask for {new}")
        self.setup("predict")
        places = [site for site, stream in self.streams.items() if machine in stream.machine_names]
        if len(places) > 1:
            raise UserError(
                f"{machine} is the name of machines at {', '.join(places)}; ask for SITE/MACHINE, or give machines"
                " names of their own in the topics"
            )
        return super().machine_at(machine)

    def _look(self) -> None:
        """Take in what has arrived, so that machines are known. What cannot be read its site says, when asked."""
        for stream in self.streams.values():
            with suppress(UserError):
                stream.take_in()

    def _record(self, site: str) -> None:
        spool = self.spools.get(site)
        if spool is not None and not isinstance(spool, str | Path) and self.streams[site].recorder is None:
            self._recording.enter_context(spool)
            self._recording.callback(setattr, self.streams[site], "recorder", None)
            self.streams[site].recorder = spool

    def _tell(self, what: str, level: int) -> None:
        """Log something that repeats names from payloads, once."""
        if what not in self._told:
            log.log(level, "%s", escaped(what))
            self._told.add(what)

    def _tell_unknown_names(self) -> None:
        """Warn, once, of names that no machine has had so far, where any machine is known."""
        machines = [
            (site, stream.aliases.get(name, name)) for site, stream in self.streams.items() for name in stream.seen
        ]
        for what, patterns in (("unseen", self.held_out), ("nameplates", self.nameplates.patterns)):
            for pattern in patterns if machines else ():
                is_site = any(fnmatchcase(site, pattern) for site in self.streams)
                if (
                    (what, pattern) in self._misfits
                    or is_site
                    or any(fits_machine([pattern], *names) for names in machines)
                ):
                    continue
                self._misfits.add((what, pattern))
                self._tell(
                    f"SpoolFleet.{what}: expected SITE, MACHINE or SITE/MACHINE, got {pattern!r}, which fits none"
                    f" so far; sites are {', '.join(self.streams)}, and machines"
                    f" {', '.join(sorted({machine for _, machine in machines}))}",
                    logging.WARNING,
                )
        seen = set().union(*(stream.seen for stream in self.streams.values()))
        old = {name for stream in self.streams.values() for name in stream.aliases}
        if seen and (unknown := sorted(old - seen)):
            self._tell(
                f"SpoolFleet: aliases rename {', '.join(unknown)}, which no machine was called so far; there are"
                f" {', '.join(sorted(seen))}",
                logging.WARNING,
            )

    def _training(self) -> dict[str, SiteData]:
        """The training sites, but those all of whose machines are held out; all, if none is left."""
        return {
            name: site
            for name, site in self.sites.items()
            if site.machine_names or not self.streams[name].machine_names
        } or dict(self.sites)

    def _held_out(self) -> dict[str, SiteData]:
        """The unseen sites that have machines; all, if none has any yet."""
        return {name: site for name, site in self.unseen.items() if site.machine_names} or dict(self.unseen)


def _microseconds(since: str | None) -> int | None:
    """µs since 1970 of the setting `since`; None if it is not set."""
    if since is None:
        return None
    if (told := moment(since)) is None:
        raise UserError(
            "SpoolFleet.since: expected an ISO time with an offset such as 2026-03-01T08:30:00+01:00, got"
            f" {since!r}"
        )
    return (told - EPOCH) // timedelta(microseconds=1)


def _trained(patterns: Sequence[str], site: str, machine: str) -> bool:
    return not fits_machine(patterns, site, machine)
