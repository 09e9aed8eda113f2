"""A fleet of recordings in files: one's own data, by a pattern of their paths or by a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.files.csv_file import CsvFormat
from fml_lightning.datamodules.files.listed_file import ListedFile
from fml_lightning.datamodules.files.manifest import read_manifest
from fml_lightning.datamodules.files.pattern import find_files
from fml_lightning.datamodules.files.reading import Reading, Stretch
from fml_lightning.datamodules.fleet import Fleet, SitePart, SiteRecordings, refuse_mixed
from fml_lightning.datamodules.held_out import checked_unseen, held_out
from fml_lightning.datamodules.nameplates import BEARING, Nameplates, bearing_orders
from fml_lightning.datamodules.recordings import Ramp, Recording
from fml_lightning.datamodules.site import SiteData
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features, RawWindows
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.shaft_speed import ShaftSpeed
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.windowing import Windowing

SIDES: tuple[Literal["early"], Literal["late"]] = ("early", "late")
REMAINING = "remaining"
"""The target that follows from when a machine's recordings began."""


class Files(Fleet):
    """Recordings in files: `.csv` (or `.txt`, `.tsv`), `.parquet`, `.npy`, `.mat` or `.wav`, rows in time.

    A file is one recording; a gap in its column of times, or more samples than are read at once, part it into
    several. Recordings of a machine follow one another by when they began, where all say so, and else by their
    paths, `2.csv` before `10.csv`. Samples are read when windows are cut from them, a file at a time, and then
    forgotten; only the features of windows are kept (of `RawWindows`, the samples themselves).

    What is said of a file is text under a name, in the place `{NAME}` of `files` or in the column NAME of
    `manifest`: `site`; `machine` (else the site is one); `label`, its class, or `target`, a number, or
    `target_first` and `target_last`, between which the target is linear in time; `condition`; `time` or `start`,
    when it began, as seconds or as a date and time, UTC; `sample_rate`, `unit` and `scale`, its own; `part`:
    `early` or `late`, on which side of the split in time it is; `bearing`, by its designation; and numbers that
    `inputs` names or `features` need.

    Args:
        files: a pattern of paths, such as `data/{site}/{machine}/{label}_*.csv`, with wildcards as shells have.
        manifest: in place of `files`, a CSV with a line for each file; its column `file` holds a path, relative to
            the manifest's folder.
        channels: columns, by name (or a shell-style pattern of one name) or by number from 0; needed where a file
            has more than one, beside `time`. Channels of `.mat` are variables that are vectors.
        sample_rate: Hz; of files that tell their own (a WAV's header, `time`, a manifest), what is expected.
        time: the column of each sample's time, of which sample rate and gaps follow: dates and times, or numbers.
        time_unit: of `time` where it holds numbers: since 1970 if they are that large, else since the file began.
        unit: the samples' unit, such as `g`.
        scale: what samples are multiplied by, such as from the codes of a converter to `unit`.
        resample: bring files of another rate to `sample_rate`, rather than refuse them.
        missing: whether samples that are missing are refused, or lie on a line between their neighbours.
        constant: whether channels that never change within a file of at least one window are refused, or kept.
        unseen: what is held out: shell-style patterns of SITE, MACHINE or SITE/MACHINE, or a share of the sites,
            such as 0.25. Machines that are held out of a site that trains are the unseen site `SITE-unseen`.
        seed: draws a share of the sites.
        classes: name of each class, as labels call it; else the labels there are, sorted. A single name is that of
            all files, where they have no labels.
        target: the name of a number to be estimated, in place of classes: `remaining`, the seconds from when a
            recording began until the machine's last one did (recordings, where nothing tells when they began); or
            a column of the manifest, or any name for what the column `target` holds.
        interval: seconds from when one file of a machine began to the next one, where nothing else tells.
        inputs: names of operating conditions, such as `speed`, that the network sees beside the features.
        nameplates: by patterns as `unseen` has, numbers that are known of machines, where nothing is said of a
            file itself: `speed` and what else `inputs` or features need; `bearing`, a designation such as
            6205-2RS or dimensions such as `{balls: 9, ratio: 0.2034}`, of which `bpfo`, `bpfi`, `bsf` and `ftf`
            follow.
        csv: how text files are laid out, where their first lines do not show it.
        windowing: how recordings become windows; null: every row is a window of ready features.
        features: what the network sees of a window; 128 `LogBandPowers` of each channel unless you say otherwise
            (`RawWindows` where every row is a window).
        shaft_speed: find the shaft's speed in the first channel, within `tolerance` of the told `speed`, which is
            often 2 to 8 % off; it needs 60 revolutions on each side of the split in time, and a recording in which
            none is found is refused. null: take the told one as it is.
        episodes: how episodes are drawn.
    """

    def __init__(
        self,
        files: str | None = None,
        manifest: str | None = None,
        channels: Sequence[int | str] = (),
        sample_rate: float | None = None,
        time: int | str | None = None,
        time_unit: Literal["s", "ms", "us", "ns"] = "s",
        unit: str | None = None,
        scale: float = 1.0,
        resample: bool = False,
        missing: Literal["refuse", "interpolate"] = "refuse",
        constant: Literal["refuse", "keep"] = "refuse",
        unseen: Sequence[str] | float = (),
        seed: int = 0,
        classes: Sequence[str] | None = None,
        target: str | None = None,
        interval: float | None = None,
        inputs: Sequence[str] = (),
        nameplates: Mapping[str, Mapping[str, Any]] | None = None,
        csv: CsvFormat = CsvFormat(),  # noqa: B008
        windowing: Windowing | None = Windowing(),  # noqa: B008
        features: Features | None = None,
        shaft_speed: ShaftSpeed | None = None,
        episodes: Episodes = Episodes(),  # noqa: B008
    ) -> None:
        preprocessing = Preprocessing(
            windowing,
            features or (RawWindows() if windowing is None else LogBandPowers()),
            tuple(map(str, channels)),
            sample_rate,
            unit,
            resample,
            tuple(inputs),
            shaft_speed=shaft_speed,
        )
        super().__init__(preprocessing, episodes)
        if (files is None) == (manifest is None):
            raise UserError(f"Files: expected files or manifest, one of the two, got {files!r} and {manifest!r}")
        if isinstance(channels, str):
            raise UserError(f"Files.channels: expected a list, got the text {channels!r}")
        if target is not None and classes is not None:
            raise UserError("Files: expected classes or target, not both; a number has no classes")
        if interval is not None and not 0 < interval < float("inf"):
            raise UserError(f"Files.interval: expected seconds above 0, got {interval}")
        self.pattern = files
        self.manifest = manifest
        self.held_out = checked_unseen("Files", unseen)
        self.seed = seed
        self.nameplates = Nameplates("Files", nameplates)
        self.target = target
        self.interval = interval
        self.told_classes = None if classes is None else tuple(classes)
        self.reading = Reading(
            tuple(channels), sample_rate, time, time_unit, scale, missing, constant, csv, windowing
        )

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Name of each class, or of the number to be estimated."""
        if self.target is not None:
            return (self.target,)
        if self.told_classes is not None:
            return self.told_classes
        listed = self.listed()
        if not _has_labels(listed):
            if all(_has_number(file, "target") for file in listed):
                return ("target",)
            raise UserError(
                f"{listed[0].where}: expected what is to be learnt of it, got neither {{label}} nor a target; say"
                " where the label is in the path or the manifest, or name the one class of all files in classes"
            )
        labels = tuple(sorted({file.text("label") for file in listed}))
        episodes = self.episodes
        if len(labels) == 1 and episodes.normal is None and episodes.of == "each class":
            raise UserError(
                f"{listed[0].where}: expected files with at least two labels, got {labels[0]!r} alone"
                f" ({len(listed)} files); add the others, or set episodes.normal to its name, for anomalies"
            )
        return labels

    def listed(self) -> list[ListedFile]:
        """The files there are, and what is said of each; none is opened."""
        if self.manifest is not None:
            return read_manifest(Path(self.manifest))
        assert self.pattern is not None
        return find_files(self.pattern, self.told_classes or ())

    def read(self) -> Iterator[SiteRecordings]:
        """Each site and what is held out of it; files are opened with their site."""
        listed = [self._placed(file) for file in self.listed()]
        machines = {(file.said["site"], file.said["machine"]) for file in listed}
        self.nameplates.check(machines)
        unseen = held_out("Files", machines, self.held_out, self.seed)
        trained = {site for site, machine in machines - unseen}
        parts: dict[tuple[str, bool], list[ListedFile]] = {}
        for file in listed:
            names = (file.said["site"], file.said["machine"])
            parts.setdefault((names[0], names in unseen), []).append(file)
        for (site, is_unseen), files in sorted(parts.items()):
            name = f"{site}-unseen" if is_unseen and site in trained else site
            yield SiteRecordings(name, is_unseen, partial(self._site, files))

    def check_sites(self, sites: Mapping[str, SiteData], unseen: Mapping[str, SiteData]) -> None:
        """See that the files of all sites have one sample rate, and one unit."""
        refuse_mixed([*sites.values(), *unseen.values()])

    def _opened(self, part: SitePart) -> SiteData:
        site = super()._opened(part)
        refuse_mixed([site])
        return site

    def _placed(self, file: ListedFile) -> ListedFile:
        """A file whose site and machine are told."""
        if "site" not in file.said:
            raise UserError(
                f"files: expected the place {{site}} in the pattern, got {self.pattern!r}; say where it is"
            )
        site = file.text("site")
        machine = file.text("machine") if "machine" in file.said else site
        return replace(file, said={**file.said, "site": site, "machine": machine})

    def _site(self, files: Sequence[ListedFile]) -> list[Recording]:
        """The recordings of a site, machine by machine."""
        by_machine: dict[str, list[ListedFile]] = {}
        for file in files:
            by_machine.setdefault(file.said["machine"], []).append(file)
        return [recording for own in by_machine.values() for recording in self._machine(own)]

    def _machine(self, files: Sequence[ListedFile]) -> Iterator[Recording]:
        stretches = [stretch for file in files for stretch in self.reading.stretches(file)]
        starts = [stretch.start for stretch in stretches]
        if None in starts and any(start is not None for start in starts):
            untold = stretches[starts.index(None)].file
            raise UserError(
                f"{untold.where}: expected when it began, as of the machine's other files, got nothing"
            )
        if None in starts and self.interval is not None:
            turn = {file.path: i * self.interval for i, file in enumerate(files)}
            starts = [round(1e6 * (turn[each.file.path] + each.offset)) for each in stretches]
        ends = max((start for start in starts if start is not None), default=0)
        for i, (stretch, start) in enumerate(zip(stretches, starts, strict=True)):
            file = stretch.file
            target: int | float | Ramp
            if self.target == REMAINING:
                target = float(len(starts) - 1 - i) if start is None else (ends - start) / 1e6
            else:
                target = self._target(stretch)
            recording = Recording(
                file.said["machine"],
                file.said.get("condition") or "any",
                target,
                stretch.sample_rate,
                stretch.values,
                start,
                file.said.get("unit") or None,
                self._told(file),
                self._part(file),
                str(file.path),
            )
            self.preprocessing.check(recording.shape[0], recording.sample_rate, recording.unit, str(recording))
            yield recording

    def _target(self, stretch: Stretch) -> int | float | Ramp:
        """The class of a file, or the number that is to be estimated of a part of it."""
        file = stretch.file
        if self.target is None and (_has_labels([file]) or self.told_classes is not None):
            alone = self.told_classes[0] if self.told_classes and len(self.told_classes) == 1 else None
            if "label" not in file.said and alone is None:
                raise UserError(f"{file.where}: expected its label, got none; say where it is in the path")
            label = file.text("label", None if "label" in file.said else alone)
            if label not in self.classes:
                raise UserError(
                    f"{file.where}: expected a label among the classes {', '.join(self.classes)}, got {label!r}"
                )
            return self.classes.index(label)
        first, last = file.number("target_first"), file.number("target_last")
        if first is not None and last is not None:
            begin, end = stretch.share
            return Ramp(first + (last - first) * begin, first + (last - first) * end)
        for name in ("target", self.target or "target"):
            if (number := file.number(name)) is not None:
                return number
        raise UserError(
            f"{file.where}, column {self.target or 'target'!r}: expected the number to be estimated, got nothing"
        )

    def _told(self, file: ListedFile) -> dict[str, float]:
        """All numbers that are known of a file: as is said of the file, else of its machine.

        What is needed of them is known once the site is opened: it may be for another fleet (`JoinedFleets`).
        """
        for name in self.preprocessing.needs:
            file.number(name)  # raises where something else than a number is said
        bearing = bearing_orders(file.said[BEARING], file.where) if file.said.get(BEARING) else {}
        return {**self.nameplates.of(file.said["site"], file.said["machine"]), **bearing, **file.numbers}

    @staticmethod
    def _part(file: ListedFile) -> Literal["early", "late"] | None:
        part = file.said.get("part") or None
        if part is None:
            return None
        for side in SIDES:
            if part == side:
                return side
        raise UserError(f"{file.where}, column 'part': expected early, late, or nothing, got {part!r}")


def _has_labels(listed: Iterable[ListedFile]) -> bool:
    return any("label" in file.said for file in listed)


def _has_number(file: ListedFile, name: str) -> bool:
    return name in file.said or (f"{name}_first" in file.said and f"{name}_last" in file.said)
