"""A run's configuration: what of it decides what is learned, and whether a resumed run has another one.

Configurations are compared as they were resolved, with every default filled in, so that neither the order of a
YAML nor a default value that is written out makes a difference.
"""

from __future__ import annotations

import inspect
import json
import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from fml_lightning.commands.run.run_folder import write_text
from fml_lightning.executors.serial import SerialExecutor
from fml_lightning.federation.aggregators import WeightedMean
from fml_lightning.objectives import Classification
from fml_lightning.preprocessing.spectral import LogBandPowers

LEARNED = re.compile(
    r"""seed_everything$|model\.|data\.
    |trainer\.(precision|plugins|gradient_clip_val|gradient_clip_algorithm|accumulate_grad_batches
    |overfit_batches|limit_train_batches|reload_dataloaders_every_n_epochs)(\.|$)""",
    re.VERBOSE,
)
"""Keys that decide what is learned."""
NOT_LEARNED = re.compile(r"model\.(patience|max_wait|executor)\b")
"""Those among them that only say where sites work and how long a run waits. (The precision in which sites work
does decide.)"""
FILLED_IN = {
    "objective": Classification,
    "features": LogBandPowers,
    "executor": SerialExecutor,
    "aggregator": WeightedMean,
}
"""The class that the code fills in, with its own defaults, where a setting of this name is null."""


class KeepConfig(Callback):
    """Writes a configuration into a run's folder when the run begins.

    Args:
        path: the file.
        text: the YAML.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, complete or not at all."""
        write_text(self.path, self.text)


def learned_changes(parser: LightningArgumentParser, then: Path, now: Namespace) -> dict[str, tuple[Any, Any]]:
    """Each key that decides what is learned, with its value in a run's own config file and its value now.

    Args:
        parser: of `fml fit`.
        then: the run's own config file.
        now: the configuration at hand.
    """
    exits, parser.exit_on_error = parser.exit_on_error, False
    try:
        kept = parser.parse_path(str(then), env=False)
    except ArgumentError as error:
        return {str(then): (f"a configuration that can no longer be read ({error})", "another")}
    finally:
        parser.exit_on_error = exits
    return differences(_resolved(parser, kept), _resolved(parser, now))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys that decide what is learned and whose values differ, as a user writes them.

    Where a class is another one, its settings are no differences of their own.

    >>> differences({"model": {"local_steps": 3}}, {"model": {"local_steps": 4, "patience": 9}})
    {'model.local_steps': (3, 4)}
    """
    found = {
        key.replace(".init_args.", "."): values
        for key, values in _differing(then, now, "")
        if LEARNED.match(key) and not NOT_LEARNED.match(key)
    }
    precisions = _site_precision(then), _site_precision(now)
    if precisions[0] != precisions[1]:
        found["model.executor.precision"] = precisions
    return found


def describe(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """The first change in full, and the names of a few others.

    >>> describe({"model.local_steps": (3, 4), "seed_everything": (0, 1)})
    'model.local_steps 3, now it is 4 (and 1 more change: seed_everything)'
    """
    (key, (then, now)), *others = changes.items()
    more = ""
    if others:
        names = ", ".join(name for name, _ in others[:5]) + (", …" if len(others) > 5 else "")
        more = f" (and {len(others)} more change{'s' * (len(others) > 1)}: {names})"
    return f"{key} {_word(then)}, now it is {_word(now)}{more}"


def _resolved(parser: LightningArgumentParser, config: Namespace) -> dict[str, Any]:
    resolved: dict[str, Any] = json.loads(parser.dump(config, format="json", skip_none=False))
    return resolved


def _differing(then: Any, now: Any, key: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Each value that differs, or the class it belongs to, by its dotted key; lists count as values."""
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        name = key.rpartition(".")[2]
        if not _same(then, now) and not (_is_filled_in(name, then, now) or _is_filled_in(name, now, then)):
            yield key, (then, now)
    elif not _same(then.get("class_path"), now.get("class_path")):
        yield key, (then.get("class_path"), now.get("class_path"))
    else:
        for each in dict.fromkeys([*then, *now]):
            yield from _differing(then.get(each), now.get(each), f"{key}.{each}" if key else each)


def _is_filled_in(name: str, null: Any, value: Any) -> bool:
    """Whether one value of a setting is null, and the other says what the code fills in for it."""
    if null is not None or name not in FILLED_IN or not isinstance(value, Mapping):
        return False
    if locate(str(value.get("class_path"))) is not FILLED_IN[name]:
        return False
    defaults = {p.name: p.default for p in inspect.signature(FILLED_IN[name]).parameters.values()}
    return all(_same(defaults.get(key), given) for key, given in (value.get("init_args") or {}).items())


def _site_precision(config: Mapping[str, Any]) -> str:
    executor = (config.get("model") or {}).get("executor") or {}
    return str((executor.get("init_args") or {}).get("precision") or "32-true")


def _same(then: Any, now: Any) -> bool:
    """Whether two values are one: also two names of one file or folder."""
    if isinstance(then, str) and isinstance(now, str) and then != now:
        return Path(now).exists() and Path(then).resolve() == Path(now).resolve()
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(_same(a, b) for a, b in zip(then, now, strict=True))
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return then.keys() == now.keys() and all(_same(then[key], now[key]) for key in then)
    if then in (None, {}) and now in (None, {}):
        return True  # no settings of a class are as good as none
    return bool(then == now) and isinstance(then, bool) == isinstance(now, bool)


def _word(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
