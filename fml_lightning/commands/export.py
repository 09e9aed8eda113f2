"""`fml export`: write machines' current models as files for gateways."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.errors import UserError
from fml_lightning.export import Format, export
from fml_lightning.names import escaped, file_name, shown
from fml_lightning.personal.registry import Registry

EXPORTED = "exported"
"""The folder of exported files, below that of a run or a site."""
ALL = "all"


def run(arguments: Sequence[str]) -> int:
    """Export; the status is 1 where a machine's model could not be."""
    purpose = COMMANDS["export"]
    options = Parser(prog="fml export", description=f"{purpose[0].upper()}{purpose[1:]}.")
    options.add_argument("run", type=str, help="the run's folder, such as runs/demo/1, or a site's")
    options.add_argument(
        "--machine", type=str, required=True, help="the machine's name, SITE/MACHINE, or all for every machine"
    )
    options.add_argument(
        "--format",
        type=Format,
        required=True,
        help="onnx, which runs without torch, or pt2, which torch loads",
    )
    options.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="the folder of SITE/MACHINE.onnx; unless set, `exported` in that of the run",
    )
    parsed = options.parse_args(list(arguments))
    output = Path(parsed.run) / EXPORTED if parsed.output is None else Path(parsed.output)
    return _export(Registry.of(parsed.run), parsed.machine, parsed.format, output)


def _export(registry: Registry, machine: str, format: Format, output: Path) -> int:
    asked = registry.machines() if machine == ALL else [registry.find(machine)]
    unreadable = registry.unreadable() if machine == ALL else []
    if not asked and not unreadable:
        raise UserError(f"{registry.folder}: there are no models of machines; make them with fml personalize")
    for folder in unreadable:
        what = f"{folder}: the card of none of its models can be read; make one again with fml personalize"
        print(f"fml: error: {escaped(what)}", file=sys.stderr)
    failed = len(unreadable)
    for site, name in asked:
        try:
            version = registry.current(site, name)
            if version is None:
                raise UserError("there is no current model; take a version with fml rollback --to")
            path = output / file_name(site) / f"{file_name(name)}.{format}"
            metadata = export(version.load(), path, format, version)
        except UserError as error:
            if machine != ALL:
                raise UserError(f"{shown(site)}/{shown(name)}: {error}") from error
            failed += 1
            print(f"fml: error: {escaped(f'{shown(site)}/{shown(name)}: {error}')}", file=sys.stderr)
            continue
        print(f"{shown(site)}/{shown(name)} {version.name}: wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
        if metadata.resample:
            print(f"  windows must be at {metadata.sample_rate:g} Hz: resampling is not part of the file")
    return 1 if failed else 0
