"""Preprocessing as one object: described in JSON, pickled, and the same again."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from fml_lightning import UserError
from fml_lightning.preprocessing import (
    Column,
    Concat,
    Features,
    LogBandPowers,
    Preprocessing,
    RawWindows,
    TimeDomain,
    Windowing,
)

WHOLE = Preprocessing(
    Windowing(seconds=0.5),
    Concat([LogBandPowers(bands=8), TimeDomain()]),
    channels=("x", "y"),
    sample_rate=128.0,
    unit="g",
    resample=True,
    inputs=("speed",),
)


@pytest.mark.parametrize("preprocessing", [WHOLE, Preprocessing(), Preprocessing(None, RawWindows())])
def test_a_description_in_json_makes_the_same_preprocessing(preprocessing: Preprocessing) -> None:
    text = json.dumps(preprocessing.describe())
    again = Preprocessing.from_description(json.loads(text))
    assert json.dumps(again.describe()) == text
    copied = pickle.loads(pickle.dumps(preprocessing))
    channels = len(preprocessing.channels) or 1
    signal = np.random.default_rng(0).normal(size=(channels, 4096)).astype(np.float32)
    for other in (again, copied):
        windows, expected = (each.cut(signal, 128.0) for each in (other, preprocessing))
        inputs = np.full((len(windows), len(preprocessing.inputs)), 25, np.float32)
        np.testing.assert_array_equal(other(windows, 128.0, inputs), preprocessing(expected, 128.0, inputs))


class Own(Features):
    """Features of the user's own."""

    def __init__(self, gain: Any) -> None:
        self.gain = gain

    def columns(self, length: int, sample_rate: float) -> list[Column]:
        return [Column("scaled", "x")]

    def __call__(self, windows: np.ndarray, sample_rate: float) -> np.ndarray:
        return self.gain * windows[:, :1]


class Forgetful(Own):
    """Features that do not keep what they were made with."""

    def __init__(self, gain: float) -> None:
        super().__init__(1.0)
        del self.gain


def test_features_of_ones_own_are_described_by_their_path() -> None:
    described = Preprocessing(features=Own(2.0)).describe()
    assert described["features"]["init_args"] == {"gain": 2.0}
    assert isinstance(Preprocessing.from_description(described).features, Own)


@pytest.mark.parametrize(
    ("features", "complaint"),
    [
        (Forgetful(2.0), "Forgetful: expected the attribute gain, the argument it was made with"),
        (Own({1}), r"Own\.gain: expected numbers, text, lists or features, which JSON can hold, got \{1\}"),
    ],
)
def test_what_cannot_be_described_is_refused(features: Features, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Preprocessing(features=features).describe()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"features": {"class_path": "os.system", "init_args": {"command": "true"}}},
            "expected a subclass of Features",
        ),
        ({"features": {"class_path": "nowhere.At", "init_args": {}}}, "nowhere.At: it cannot be imported"),
        ({"features": {"class_path": "fml_lightning.preprocessing.LogBandPowers", "init_args": {"b": 1}}}, "'b'"),
        ({"features": 3}, "expected class_path and init_args, got 3"),
        (
            {"windowing": {"length": "long"}},
            r"preprocessing: Expected `int`, got `str` - at `\$.windowing.length`",
        ),
        ({"sample_rate": -1.0}, "expected a sample rate in Hz above 0"),
    ],
)
def test_a_description_of_a_stranger_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Preprocessing.from_description({**WHOLE.describe(), **change})
