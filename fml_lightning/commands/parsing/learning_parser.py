"""The parser of the learning verbs: the public classes by their short names, and a help that fits a screen."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.errors import UserError
from fml_lightning.objectives import Objective
from fml_lightning.personal.descriptions import remembering

PACKAGES = ("fml_lightning", *(f"fml_lightning.{name}" for name in ("preprocessing", "datamodules", "connectors")))
"""Whose public names are classes that YAML may name without a path: `class_path: SimulatedFleet`."""

COMMON = {
    "what to run": ("config", "seed_everything", "ckpt_path", "machine", "only_if_better", "allow_changes"),
    "what learns (model)": (
        "model.learner",
        "model.local_steps",
        "model.cohort",
        "model.aggregator",
        "model.server_optimizer",
        "model.quorum",
        "model.max_wait",
    ),
    "from which data": ("data",),
    "how long, and where (Lightning's Trainer; a step is a round)": (
        "trainer.max_steps",
        "trainer.max_epochs",
        "trainer.max_time",
        "trainer.check_val_every_n_epoch",
        "trainer.accelerator",
        "trainer.logger",
        "trainer.callbacks",
        "trainer.default_root_dir",
        "checkpoints.every",
        "checkpoints.keep",
    ),
}
"""The options that the short help lists, by their keys."""
WORDS = {
    "config": "YAML file with any of the settings; without one, a simulated fleet (configs/demo.yaml).",
    "data": "The fleet's class, such as SimulatedFleet; its settings are --data.NAME.",
    "seed_everything": "The seed of everything random; true draws one.",
    "trainer.max_epochs": "The same as max_steps: an epoch is one step.",
    "trainer.max_steps": "Rounds to train; 60 where neither max_epochs nor max_time is set.",
    "trainer.max_time": "The longest time to train, as DD:HH:MM:SS.",
    "trainer.check_val_every_n_epoch": "Measure the training sites after every so many rounds.",
    "trainer.callbacks": "Lightning's callbacks, such as EarlyStopping on val/accuracy_after.",
    "trainer.logger": "Loggers; a CSV below logs/ of the run's folder unless you say otherwise.",
    "trainer.default_root_dir": "The folder of the runs.",
    "trainer.accelerator": "cpu, gpu, ...: what the outer loop runs on; the sites' is the executor's.",
    "ckpt_path": "last or best (of the newest run of this config), or a checkpoint's path.",
}
"""What the short help says of an option in place of the option's own, longer or missing, help."""


def import_public_names() -> None:
    """Import what the packages above export: jsonargparse knows a class by its short name once it is imported."""
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            getattr(module, name)


def note_arguments(parser: ArgumentParser) -> None:
    """Let networks and objectives keep what a parser makes them with, which a personal model's file needs."""
    for kind in (nn.Module, Objective):
        parser.add_instantiator(remembering, kind)


def _tells_options(arguments: Sequence[str]) -> bool:
    """Whether a command line asks what options mean: to read that from their sources takes a second."""
    names = {argument.split("=")[0] for argument in arguments}
    return any(name == "-h" or name.endswith(("help", "help_all", "print_config")) for name in names)


class LearningParser(Parser, LightningArgumentParser):
    """LightningCLI's parser, with our errors and a short help; `--help_all` gives the whole one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        set_parsing_settings(docstring_parse_attribute_docstrings=_tells_options(sys.argv[1:]))
        super().__init__(*args, **kwargs)

    def refuse_unknown_variables(self, verb: str) -> None:
        """Refuse environment variables of a verb that name no setting: they would be ignored without a word.

        Raises:
            UserError: there is one.
        """
        prefix = f"FML_{verb.upper()}__"
        known = [prefix + key.upper().replace(".", "__") for key in self.options()]
        for name in os.environ:
            if name.startswith(prefix) and name not in known:
                near = get_close_matches(name, known, n=1)
                raise UserError(
                    f"the environment variable {name} names no setting"
                    + (f"; did you mean {near[0]}?" if near else f"; see fml {verb} --help_all")
                )

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The options that most runs need, and the way to the rest."""
        actions = {action.dest: action for action in self._actions if action.option_strings}
        if not {"config", "model.learner"} <= actions.keys():
            return super().format_help()  # of a class, or of all verbs
        width = min(shutil.get_terminal_size().columns, 115)
        verb = self.prog.split()[-1]
        lines = [
            f"usage: fml {verb} --config FILE [--KEY VALUE ...]",
            "",
            *textwrap.wrap(self.description or "", width),
        ]
        for title, keys in COMMON.items():
            lines += ["", f"{title}:"]
            for key in keys:
                if key in actions:
                    lines += _option(actions[key], WORDS.get(key), width)
        lines += ["", *WAY.format(verb=verb, prefix=f"FML_{verb.upper()}").splitlines()]
        return "\n".join(lines) + "\n"

    def format_full_help(self) -> str:
        """Every option."""
        return super().format_help()


class FullHelp(argparse._HelpAction):
    """Prints every option, and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print and exit."""
        assert isinstance(parser, LearningParser)
        print(parser.format_full_help())
        parser.exit()


COLUMN = 36
"""Where the second column of the short help begins."""
WAY = """\
the rest:
  --help_all                        every option, the Trainer's too
  --print_config                    the whole configuration, with every default
  --model.learner.help MAML         the settings of a learner, its inner loop's too
  --data.help SimulatedFleet        those of a fleet, with windowing and episodes
Any setting can be given as --KEY VALUE, in YAML, or in the environment:
{prefix}__TRAINER__MAX_STEPS=3."""
"""The end of the short help."""


def _option(action: argparse.Action, words: str | None, width: int) -> list[str]:
    """An option and what it does, in two columns."""
    text = words or " ".join((action.help or "").split())
    default = action.default
    if isinstance(default, str | int) and default not in (-1, False):
        text += f" (default: {str(default).rpartition('.')[2]})"
    body = textwrap.wrap(text, max(width - COLUMN, 30))
    head = f"  --{action.dest:<{COLUMN - 5}} "
    return [f"{head}{body[0] if body else ''}".rstrip(), *(" " * COLUMN + line for line in body[1:])]
