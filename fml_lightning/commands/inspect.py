"""`fml inspect`: what data are like, before anything is trained on them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.commands.process import log_to_stderr, parser, settings_of
from fml_lightning.errors import UserError
from fml_lightning.names import escaped, file_name

if TYPE_CHECKING:
    from fml_lightning.datamodules.fleet import Fleet
    from fml_lightning.datamodules.inspection import Inspection, MachineLook

FEW = 4
"""Classes whose windows are counted one by one, at most."""
MOST = 200
"""Machines, and remarks, that are printed at most."""


def run(arguments: Sequence[str]) -> int:
    """Inspect a config's data, or a spool; 1 if something would make training wrong."""
    if set(arguments) & {"-h", "--help"}:
        options = parser("inspect")
        options.add_argument(
            "what", metavar="WHAT", help="a config of fml fit (only its data are read), or a spool"
        )
        options.add_argument(
            "--data.setting", metavar="VALUE", help="a setting of the data, in place of the config's"
        )
        _add_pictures(options)
        settings_of(options, ["--help"])
    if not arguments or arguments[0].startswith("-"):
        raise UserError(
            "expected a config of fml fit, or the folder of a spool, as in fml inspect configs/demo.yaml, got none"
        )
    what, rest = Path(arguments[0]), list(arguments[1:])
    log_to_stderr()
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
            f"{config}: {error.strerror}; give a config of fml fit, or the folder of a spool"
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
