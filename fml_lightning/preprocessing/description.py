"""Descriptions of features in JSON: the class by its import path, and what it was made with."""

from __future__ import annotations

from typing import Any

from fml_lightning.description import Describer
from fml_lightning.preprocessing.features import Features

FEATURES = Describer(Features, "features")  # type: ignore[type-abstract]


def describe(features: Features) -> dict[str, Any]:
    """Features as a mapping that JSON can hold, from which `from_description` makes them again.

    A class keeps each argument of its constructor under the argument's name. A dataclass among them is described
    by its fields: the constructor takes such a mapping too.

    >>> from fml_lightning.preprocessing.spectral import LogBandPowers
    >>> describe(LogBandPowers(bands=16))
    {'class_path': 'fml_lightning.preprocessing.LogBandPowers', 'init_args': {'bands': 16}}

    Raises:
        UserError: another process could not make them again.
    """
    return FEATURES.describe(features)


def from_description(description: object) -> Features:
    """The features that `describe` described, see `Describer.made`.

    Raises:
        UserError: the class cannot be imported, is none of features, or refuses its arguments.
    """
    return FEATURES.made(description)
