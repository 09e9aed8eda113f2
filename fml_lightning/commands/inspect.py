"""`fml inspect`: what data are like, before anything is trained on them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.commands.process import log_to_stderr, parser, settings_of
from fml_lightning.errors import UserError
from fml_lightning.names import escaped, file_name

if TYPE_CHECKING:
    from fml_lightning.datamodules.files.bare_files import FileLook
    from fml_lightning.datamodules.fleet import Fleet
    from fml_lightning.datamodules.inspection import Inspection, MachineLook

CONFIGS = (".yaml", ".yml", ".json")
"""How names of configs end."""
FEW = 4
"""Classes whose windows are counted one by one, at most."""
MOST = 200
"""Machines, and remarks, that are printed at most."""


def run(arguments: Sequence[str]) -> int:
    """Inspect a config's data, files, or a spool; 1 if something would make training wrong."""
    if set(arguments) & {"-h", "--help"}:
        options = parser("inspect")
        options.add_argument(
            "what",
            metavar="WHAT",
            help="a config of fml fit (only its data are read); or files, folders of files, or patterns, of which"
            " it says how to read them; or a spool",
        )
        options.add_argument(
            "--data.setting", metavar="VALUE", help="a setting of the data, in place of the config's"
        )
        _add_pictures(options)
        settings_of(options, ["--help"])
    if not arguments or arguments[0].startswith("-"):
        raise UserError(
            "expected a config of fml fit, files, or the folder of a spool, as in fml inspect configs/demo.yaml,"
            " got none"
        )
    what, rest = Path(arguments[0]), list(arguments[1:])
    log_to_stderr()
    if what.suffix.lower() not in CONFIGS and not _is_spool(what):
        return _run_on_files(arguments)
    if what.is_dir():
        from fml_lightning.commands import spool

        return spool.run([str(what), *rest])
    pictures, fleet = _fleet(what, rest)
    from fml_lightning.datamodules.inspection import inspect

    found = inspect(fleet)
    print("\n".join(map(escaped, described(found))), flush=True)
    if pictures:
        print(f"wrote {draw_all(fleet, Path(pictures))} pictures to {pictures}")
    return 1 if found.problems else 0


def _is_spool(folder: Path) -> bool:
    """Whether a folder is a spool, or at least holds no files of data."""
    from fml_lightning.datamodules.files.reading import KINDS

    if not folder.is_dir():
        return False
    if (folder / "topics.json").exists() or (folder / "segments").is_dir():
        return True
    return not any(path.suffix.lower() in KINDS for path in folder.rglob("*"))


def _run_on_files(arguments: Sequence[str]) -> int:
    """Inspect files of which nothing is said, and propose how to read them."""
    from fml_lightning.datamodules.files.bare_files import compared, find_bare_files, look_at
    from fml_lightning.datamodules.files.proposal import proposed

    if options := [argument for argument in arguments if argument.startswith("-")]:
        raise UserError(f"{options[0]}: bare files take no settings; put the proposed YAML into a config")
    looks = [look_at(path) for path in find_bare_files(arguments)]
    problems = [*(problem for look in looks for problem in look.problems), *compared(looks)]
    lines = _table([("file", "rows", "columns", "Hz", "notes"), *(_row_of_file(look) for look in looks[:MOST])])
    if len(looks) > MOST:
        lines.append(f"and {len(looks) - MOST:,} more")
    lines.append("")
    if opened := [look for look in looks if look.rows]:
        lines += _table([("column", "holds", "unit", "smallest", "largest", "missing"), *_columns(opened)])
        lines += ["", "this would read them:", "", *proposed(opened), ""]
    if problems:
        lines += ["would make training wrong:", *(f"  {problem}" for problem in problems[:MOST])]
    lines.append(f"{len(problems)} problems" if problems else "nothing would make training wrong")
    print("\n".join(map(escaped, lines)), flush=True)
    return 1 if problems else 0


def _row_of_file(look: FileLook) -> tuple[str, ...]:
    clipped = sum(column.is_clipped for column in look.channels)
    counts = (
        (look.gaps, "gaps"),
        (sum(column.missing for column in look.channels), "missing"),
        (sum(column.is_flat for column in look.channels), "flat"),
        (clipped, "clipped"),
    )
    notes = ", ".join(f"{count:,} {name}" for count, name in counts if count)
    rate = f"{look.sample_rate:g}" if look.sample_rate else "?"
    return str(look.path), f"{look.rows:,}", str(len(look.columns)), "-" if look.texts else rate, notes


def _columns(looks: Sequence[FileLook]) -> Iterator[tuple[str, ...]]:
    """A row for each column of the first file, with what all files hold of it."""
    for place, column in enumerate(looks[0].columns):
        own = [look.columns[place] for look in looks if look.columns[place:]]
        holds: str = column.kind
        if column.kind == "text":
            words = list(dict.fromkeys(word for each in own for word in each.words))
            holds = f"text: {', '.join(words[:FEW])}{', …' if len(words) > FEW else ''}"
        elif column is looks[0].time:
            holds = "times"
        limits = [f"{min(each.smallest for each in own):g}", f"{max(each.largest for each in own):g}"]
        missing = sum(each.missing for each in own)
        numbers = limits if column.kind == "numbers" else ["", ""]
        yield column.called.strip("'"), holds, column.unit or "", *numbers, f"{missing:,}" if missing else ""


def _options() -> Parser:
    from fml_lightning.commands.parsing.learning_parser import import_public_names
    from fml_lightning.datamodules.fleet import Fleet

    import_public_names()
    options = parser("inspect")
    options.add_subclass_arguments(Fleet, "data", required=True)
    _add_pictures(options)
    return options


def _add_pictures(options: Parser) -> None:
    options.add_argument("--pictures", type=str | None, default=None, help="folder for a picture of each machine")


def _fleet(config: Path, rest: Sequence[str]) -> tuple[str | None, Fleet]:
    """The fleet of a config of `fml fit`, of which only `data` is read."""
    try:
        content: Any = yaml.safe_load(config.read_text())
    except OSError as error:
        raise UserError(
            f"{config}: {error.strerror}; give a config of fml fit, files, or the folder of a spool"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{config}: expected a config in YAML, got {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or "data" not in content:
        raise UserError(f"{config}: expected a config of fml fit with a section data")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"data": content["data"]}, file)
        file.flush()
        settings = settings_of(_options(), ["--config", file.name, *rest])
    return settings["pictures"], settings["data"]


def described(found: Inspection) -> list[str]:
    """The lines that `fml inspect` prints."""
    lines = _table(
        [("machine", "windows early + late", "recordings", "Hz", "conditions", "notes")]
        + [_row(look) for look in found.machines[:MOST]]
    )
    if len(found.machines) > MOST:
        lines.append(f"and {len(found.machines) - MOST:,} more")
    for title, sentences in (("remarks", found.remarks), ("would make training wrong", found.problems)):
        if sentences:
            lines += ["", f"{title}:", *(f"  {sentence}" for sentence in sentences[:MOST])]
    return [
        *lines,
        "",
        "nothing would make training wrong" if not found.problems else f"{len(found.problems)} problems",
    ]


def _row(look: MachineLook) -> tuple[str, ...]:
    names = [*look.early, *(name for name in look.late if name not in look.early)]
    windows = ", ".join(f"{name} {look.early[name]:,} + {look.late[name]:,}" for name in names)
    if len(names) > FEW:
        early, late = ([counts[name] for name in names] for counts in (look.early, look.late))
        windows = f"{len(names)} classes, {min(early):,}-{max(early):,} + {min(late):,}-{max(late):,} each"
    if look.target is not None:
        windows = (
            f"{look.early.total():,} + {look.late.total():,}, target {look.target[0]:g} to {look.target[1]:g}"
        )
    notes = ["unseen"] if look.unseen else []
    notes += sorted(look.units)
    counts = ((look.gaps, "gaps"), (look.missing, "missing"), (look.flat, "flat"), (look.clipped, "clipped"))
    notes += [f"{count:,} {name}" for count, name in counts if count]
    return (
        f"{look.site}/{look.machine}",
        windows or "-",
        f"{look.recordings:,}" + (f", {look.seconds:,.6g} s" if look.rates else ""),
        ", ".join(f"{rate:g}" for rate in sorted(look.rates)) or "-",
        f"{len(look.conditions)}",
        ", ".join(notes),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def draw_all(fleet: Fleet, folder: Path) -> int:
    """Draw each machine's signals, spectra and features against the fleet's; returns how many were drawn."""
    from fml_lightning.commands.machine_picture import draw, spread

    cut = {}
    for site in (*fleet.sites.values(), *fleet.unseen.values()):
        with contextlib.suppress(UserError):  # which is told among the problems
            cut[site] = site.machines
    if not cut:
        return 0
    middle = spread([machine for machines in cut.values() for machine in machines])
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for site, machines in cut.items():
        for machine in machines:
            own = [recording for recording in site.recordings if site.machine_of(recording) == machine.name]
            path = folder / f"{file_name(site.name)}-{file_name(machine.name)}.png"
            draw(site.name, machine, own, fleet.classes, middle, path)
            count += 1
    return count
