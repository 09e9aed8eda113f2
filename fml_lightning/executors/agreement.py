"""What a server and its sites must agree on: the learner, setting by setting, so that a difference has a name.

Each builds the learner from a configuration of its own; code and configuration never travel. What is told holds
settings alone, no parameter and no data.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

import msgspec
import torch
from torch import nn

from fml_lightning.learners.learner import Learner
from fml_lightning.learners.optimizers import Factory

Agreement = dict[str, str]
"""Settings by name: `adaptation.lr` to `0.1`."""
LONGEST = 300
"""Characters of a setting that a difference shows."""


def agreement(learner: Learner) -> Agreement:
    """The settings of a learner, its network, its objective and its optimizers, and the shapes of what is shared.

    >>> from fml_lightning import MAML, MLP
    >>> told = agreement(MAML(MLP(4, 2, hidden=())))
    >>> told["learner"], told["learner.adaptation.steps"], told["shared.net.1.weight"]
    ('fml_lightning.learners.maml.MAML', '3', 'torch.float32 (2, 4)')
    """
    told: Agreement = {}
    _tell(told, "learner", learner)
    for name, p in learner.shared.items():
        told[f"shared.{name}"] = f"{p.dtype} {tuple(p.shape)}"
    return told


def digest(told: Agreement) -> str:
    """A short name of an agreement, by which people compare it: the beginning of its SHA-256."""
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()[:16]


def differing(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """The names of the settings that differ, theirs first."""
    return [name for name in dict.fromkeys([*theirs, *ours]) if theirs.get(name) != ours.get(name)]


def differences(theirs: Mapping[str, str], ours: Mapping[str, str], they: str = "the server") -> str:
    """What differs, as a sentence; empty where nothing does.

    >>> differences({"learner.lr": "0.1"}, {"learner.lr": "0.2"})
    'learner.lr is 0.2 here and 0.1 at the server'
    """
    names = differing(theirs, ours)

    def of(told: Mapping[str, str], name: str) -> str:
        return told.get(name, "missing")[:LONGEST]

    said = [f"{name} is {of(ours, name)} here and {of(theirs, name)} at {they}" for name in names[:3]]
    more = f"; {len(names) - 3} more settings differ" if len(names) > 3 else ""
    return "; ".join(said) + more


def _tell(told: Agreement, name: str, value: Any, within: tuple[int, ...] = ()) -> None:
    """Write a value's settings under its name: arguments of constructors as far as their attributes tell them."""
    if id(value) in within:
        return
    within = (*within, id(value))
    if isinstance(value, Factory):
        told[name] = _factory(value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _tell(told, f"{name}.{key}", each, within)
    elif isinstance(value, type | FunctionType):
        told[name] = f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, functools.partial):
        told[name] = f"{value.func.__module__}.{value.func.__qualname__}"
        _tell(told, name, value.keywords, within)
    elif isinstance(value, torch.Tensor):
        told[name] = repr(value.tolist())
    elif isinstance(value, list | tuple | set | frozenset):
        several = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
        if all(_is_plain(each) for each in several):
            told[name] = repr(several)
        else:
            _tell(told, name, dict(enumerate(several)), within)
    elif _is_plain(value):
        told[name] = repr(value)
    else:
        told[name] = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, nn.Module) and not isinstance(value, Learner):
            told[f"{name}.layers"] = " ".join(repr(value).split())
        for argument in _arguments(value):
            _tell(told, f"{name}.{argument}", getattr(value, argument), within)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _arguments(value: object) -> list[str]:
    """The arguments that a value was made with, where it keeps them under their names."""
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    # An own __init__ alone says what a class takes; signatures of builtin ones may be unknown.
    kinds = [kind for kind in type(value).__mro__ if isinstance(vars(kind).get("__init__"), FunctionType)]
    names = dict.fromkeys(name for kind in kinds for name in inspect.signature(kind).parameters)
    return [name for name in names if name in vars(value) or name in getattr(value, "_modules", ())]


def _factory(factory: Factory[Any, Any]) -> str:
    """What a factory makes, by its own words: these have every setting."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    try:
        argument: Any = optimizer if "scheduler" in factory.setting else optimizer.param_groups[0]["params"]
        made = factory(argument)
    except Exception as error:  # a factory of the user's, which may ask for more than one parameter
        return f"{factory.make!r} ({type(error).__name__})"
    if isinstance(made, torch.optim.Optimizer):
        return " ".join(repr(made).split())
    state = {key: each for key, each in vars(made).items() if _is_plain(each) and not key.startswith("_")}
    return f"{type(made).__qualname__} {sorted(state.items())}"
