"""A proposal: the YAML that would read files of which nothing is said. The rest is left to the user."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fml_lightning.datamodules.files.bare_files import ColumnLook, FileLook

NUMBERED = re.compile(r"(.+?)([_\- .]*)(\d+)")
"""The name of one of several bursts."""
ROLES = {
    "site": re.compile(r"site|plant|factory|hospital|werk|standort|location|line", re.IGNORECASE),
    "machine": re.compile(r"machine|asset|unit|device|engine|maschine|equipment|patient", re.IGNORECASE),
    "target": re.compile(r"target|label|class|state|status|fault|zustand|condition|rul", re.IGNORECASE),
    "time": re.compile(r"t|time.*|timestamp.*|date.*|hours?|days?|cycles?|zeit.*|datum|.*_time", re.IGNORECASE),
}
"""What columns of a table are called, by their role."""


def proposed(looks: Sequence[FileLook]) -> list[str]:
    """The lines of the section `data`, with comments on what is a guess; words in capitals are to be replaced.

    Args:
        looks: of files that could be opened; at least one.
    """
    first = looks[0]
    kind, settings = ("Table", _of_table(looks)) if first.texts else ("Files", _of_files(looks))
    lines = ["data:", f"  class_path: fml_lightning.datamodules.{kind}", "  init_args:"]
    return lines + [f"    {name}: {value}{f'  # {why}' if why else ''}" for name, value, why in settings]


def _of_table(looks: Sequence[FileLook]) -> Iterator[tuple[str, str, str]]:
    """The settings of a `Table`: name, value, and what is to be said of it."""
    first = looks[0]
    paths = [str(look.path) for look in looks]
    yield "path", _yaml(paths[0] if len(paths) == 1 else paths), ""
    names = [column.name or f"column_{column.place + 1}" for column in first.columns]
    if not any(column.name for column in first.columns):
        yield "header", "false", "so columns are called column_1, column_2 and so on"
    for role, usual in ROLES.items():
        named = [name for name in names if usual.fullmatch(name.strip())]
        if named:
            yield role, _yaml(named[0]), "by its name; is it?"
        elif role in ("site", "target"):
            yield role, "COLUMN", f"which one of {', '.join(names)}?"


def _of_files(looks: Sequence[FileLook]) -> Iterator[tuple[str, str, str]]:
    """The settings of `Files`: name, value, and what is to be said of it."""
    first = looks[0]
    pattern, labelled = _pattern([look.path for look in looks])
    hint = "are these places what folders and names say?"
    yield "files", _yaml(pattern), hint if labelled else f"{hint} Nothing says what is to be learnt"
    channels = first.channels
    if len(channels) > 1 or len(first.columns) > 1:
        yield "channels", _yaml([_called(column) for column in channels]), ""
    time, rate = first.time, first.sample_rate
    if time is not None:
        told = f"which tells {rate:g} Hz" if rate else ""
        if first.time_unit is None and time.kind == "numbers" and rate:
            told = f"if it is in seconds, {rate:g} Hz; else set time_unit to ms, us or ns"
        yield "time", _yaml(_called(time)), told
        if first.time_unit not in (None, "s"):
            yield "time_unit", _yaml(first.time_unit), "by the column's name"
    elif rate is not None:
        yield "sample_rate", f"{rate:g}", "as the header says"
    else:
        yield "sample_rate", "HZ", "nothing in the files tells it; put the number here"
    units = {column.unit for column in channels}
    if len(units) == 1 and (unit := units.pop()):
        yield "unit", _yaml(unit), "by the columns' names"


def _pattern(paths: Sequence[Path]) -> tuple[str, bool]:
    """A pattern that finds files, and whether it says their labels."""
    root = Path(os.path.commonpath([path.parent for path in paths]))
    depths = {len(path.relative_to(root).parts) - 1 for path in paths}
    endings = {path.suffix for path in paths}
    name, labelled = _name([path.stem for path in paths])
    ending = endings.pop() if len(endings) == 1 else ".*"
    if len(depths) > 1:
        return str(root / "{site}" / "**" / f"{name}{ending}"), labelled
    depth = depths.pop()
    if depth == 0:  # of one site
        root, depth = (root / ".." if root.name in ("", "..") else root.parent), 1
    places = ["{site}", "{machine}", "{label}"][:depth] + ["*"] * (depth - 3)
    if labelled and depth > 2:
        places[2] = "*"
    elif not labelled and depth == 2 and len({path.parent.name for path in paths}) > 1:
        places[1] = "{label}"
    return str(root.joinpath(*places, f"{name}{ending}")), labelled or "{label}" in places


def _name(stems: Sequence[str]) -> tuple[str, bool]:
    """What files are called, and whether that says their labels."""
    numbered = [NUMBERED.fullmatch(stem) for stem in stems]
    labels = {found[1] if found else stem for found, stem in zip(numbered, stems, strict=True)}
    if len(labels) < 2:
        return "*", False
    betweens = {found[2] for found in numbered if found}
    if not any(numbered):
        return "{label}", True
    if all(numbered) and len(betweens) == 1 and (between := betweens.pop()):
        return f"{{label}}{between}[0-9]*", True
    return "{label}[0-9]*" if all(numbered) else "{label}", True


def _called(column: ColumnLook) -> str | int:
    return column.name or column.place


def _yaml(value: object) -> str:
    """A value in one line of YAML, of which JSON is a part."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_./][\w./*-]*", value) and "#" not in value:
        return value
    return json.dumps(value, ensure_ascii=False)
