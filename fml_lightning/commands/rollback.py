"""`fml rollback`: make an earlier version of a machine's model the current one."""

from __future__ import annotations

from collections.abc import Sequence

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.personal.card import summary
from fml_lightning.personal.registry import Registry


def run(arguments: Sequence[str]) -> int:
    """Roll back, and say what is current now."""
    purpose = COMMANDS["rollback"]
    options = Parser(prog="fml rollback", description=f"{purpose[0].upper()}{purpose[1:]}.")
    options.add_argument("run", type=str, help="the run's folder, such as runs/demo/1, or a site's")
    options.add_argument("machine", type=str, help="the machine's name, or SITE/MACHINE")
    options.add_argument(
        "--to",
        type=str | None,
        default=None,
        help="the version, such as v2; unless set, the newest before the current one that is not refused",
    )
    parsed = options.parse_args(list(arguments))
    registry = Registry.of(parsed.run)
    version = registry.rollback(*registry.find(parsed.machine), parsed.to)
    print(summary(version.card))
    print(f"{version.name} is the current model now")
    return 0
