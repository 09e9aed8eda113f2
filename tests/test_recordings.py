"""Recordings, and what sites and fleets are made of: what does not fit is refused in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fml_lightning import UserError
from fml_lightning.datamodules import Episodes, Fleet, Recording, SiteData, SiteRecordings, SpoolFleet
from fml_lightning.preprocessing import LogBandPowers, Preprocessing, RawWindows, Windowing

SAMPLES = np.arange(100, dtype=np.float32)
SMALL = Preprocessing(Windowing(length=10, hop=5), RawWindows())


def recording(**fields: Any) -> Recording:
    return Recording(
        **{"machine": "pump", "condition": "full load", "target": 0, "sample_rate": 1e3, "values": SAMPLES}
        | fields
    )


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"machine": 7}, "Recording: expected the name of a machine as text, got 7"),
        ({"machine": ""}, "Recording: expected the name of a machine as text, got ''"),
        ({"condition": None}, "Recording: expected the name of a condition as text, got None"),
        ({"target": -1}, "pump, full load: expected as target a class, an index of 0 or more .* got -1"),
        ({"target": float("nan")}, r"finite float; .* got nan"),
        ({"target": "outer"}, "expected as target a class.*got 'outer'"),
        ({"target": True}, "expected as target a class.*got True"),
        ({"sample_rate": 0}, "pump, full load: expected a sample rate in Hz, finite and above 0, got 0"),
        ({"sample_rate": float("nan")}, "sample rate in Hz, finite and above 0, got nan"),
        ({"sample_rate": float("inf")}, "sample rate in Hz, finite and above 0, got inf"),
        ({"sample_rate": "12 kHz"}, "sample rate in Hz, finite and above 0, got '12 kHz'"),
        ({"values": np.zeros((2, 3, 4))}, r"got shape \(2, 3, 4\)$"),
        ({"values": np.zeros(0)}, r"with n >= 1, got shape \(0,\)$"),
        ({"values": np.float32(3)}, r"got shape \(\)$"),
        ({"values": np.array(["a", "b"])}, "as numbers, .* got <U1"),
        ({"values": np.zeros(3, complex)}, "as numbers, .* got complex128"),
        ({"values": np.zeros(3, bool)}, "as numbers, .* got bool"),
        ({"values": [[1.0], [2.0, 3.0]]}, "as numbers, .* got setting an array element"),
        ({"values": None}, "as numbers, .* got object"),
    ],
)
def test_what_is_no_recording_is_refused_in_a_sentence(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as refused:
        recording(**fields)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("values", [SAMPLES.astype(np.int16), SAMPLES.astype(float), torch.from_numpy(SAMPLES)])
def test_samples_of_any_numbers_become_float32(values: Any) -> None:
    data = recording(values=values, target=np.int32(3))
    assert data.values.dtype == np.float32
    np.testing.assert_array_equal(data.values, SAMPLES[None])


def test_samples_that_are_too_large_for_float32_are_refused_like_infinite_ones() -> None:
    site = SiteData("plant", [recording(values=np.full(100, 1e300))], SMALL, Episodes())
    with pytest.raises(UserError, match="pump, full load: the recording holds NaN or infinite samples"):
        _ = site.machines


def test_labels_stay_integers_from_recording_to_episode(site: SiteData) -> None:
    """An objective that needs numbers can tell from their type that these are classes."""
    for loader in (site.train_dataloader(), site.val_dataloader(), site.predict_dataloader()):
        for episode in loader:
            assert episode.support.y.dtype == episode.query.y.dtype == torch.int64


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": None}, "SiteData: expected the site's name as text, got None"),
        ({"recordings": "pump.csv"}, "plant: expected a list of Recordings, got str"),
        ({"recordings": {"pump": recording()}}, "plant: expected a list of Recordings, got dict"),
        ({"recordings": [recording(), SAMPLES]}, "plant: expected a Recording at place 1, got ndarray"),
        ({"preprocessing": LogBandPowers}, "plant: expected Preprocessing, got <class"),
        ({"episodes": None}, "plant: expected Episodes, got None"),
    ],
)
def test_what_is_no_site_is_refused_in_a_sentence(arguments: dict[str, Any], complaint: str) -> None:
    whole = {
        "name": "plant",
        "recordings": [recording()],
        "preprocessing": SMALL,
        "episodes": Episodes(),
    }
    with pytest.raises(UserError, match=complaint):
        SiteData(**whole | arguments)


def test_a_site_without_recordings_is_refused_in_training_and_validation() -> None:
    site = SiteData("plant", [], SMALL, Episodes())
    for loader in (site.train_dataloader(), site.val_dataloader(), site.predict_dataloader()):
        with pytest.raises(UserError, match="plant: the site has no recordings"):
            next(iter(loader))


class ReadAsTold(Fleet):
    """Whatever it is told to read."""

    def __init__(self, parts: Any, classes: Any = ("normal", "outer"), episodes: Episodes = Episodes()) -> None:  # noqa: B008
        super().__init__(SMALL, episodes)
        self.parts = parts
        if classes is not None:
            self.classes = classes

    def read(self) -> Any:
        return self.parts


def parts(label: int = 1, unseen: bool = False) -> Iterator[SiteRecordings]:
    yield SiteRecordings("north", False, [recording()])
    yield SiteRecordings("south", unseen, [recording(), recording(machine="fan", target=label)])


@pytest.mark.parametrize("unseen", [True, False])
def test_labels_beyond_the_classes_are_refused_with_the_recordings_name(unseen: bool) -> None:
    fleet = ReadAsTold(parts(1, unseen))
    fleet.setup("fit")
    assert fleet.classes == ("normal", "outer")
    with pytest.raises(
        UserError,
        match="ReadAsTold, south: the recording fan, full load has the label 2; expected the index of one of the 2"
        " classes normal, outer",
    ):
        ReadAsTold(parts(2, unseen)).setup("fit")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"parts": None}, r"ReadAsTold: expected read\(\) to give the parts of sites, got None"),
        (
            {"parts": {"north": [recording()]}},
            r"expected read\(\) to give SiteRecordings, one for each site, got str",
        ),
        ({"parts": [recording()]}, r"expected read\(\) to give SiteRecordings, .* got Recording"),
        ({"parts": [*parts(), *parts()]}, "two sites are called 'north'"),
        ({"parts": []}, "no site is left to train on"),
        ({"classes": None}, "ReadAsTold: expected the names of its classes, in order of their labels, got None"),
        ({"classes": "normal"}, "expected the names of its classes, .* got 'normal'"),
        ({"classes": (0, 1)}, r"expected the names of its classes, .* got \(0, 1\)"),
        ({"classes": ("a", "a")}, r"expected the names of its classes, each once, got \('a', 'a'\)"),
        ({"episodes": Episodes(normal=2, shots=2)}, "ReadAsTold: expected episodes.normal below 2, got 2"),
        (
            {"episodes": Episodes(normal="worn", shots=2)},
            "ReadAsTold: expected episodes.normal to be one of normal, outer, got 'worn'",
        ),
    ],
)
def test_what_is_no_fleet_is_refused_in_a_sentence(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        ReadAsTold(**{"parts": parts()} | arguments).setup("fit")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"spools": ["spools/north"]}, r"expected spools, and labels, as a mapping .* got \['spools/north'\]"),
        ({"labels": ["north.csv"]}, r"expected spools, and labels, as a mapping .* and \['north.csv'\]"),
        ({"spools": {"north": 3}}, "SpoolFleet, north: expected the folder of a spool, or an MQTT, got 3"),
        ({"classes": "normal"}, "SpoolFleet: expected the names of its classes, .* got 'normal'"),
        ({"unseen": "pump"}, "expected unseen as a list of patterns, got the text 'pump'"),
    ],
)
def test_what_is_no_fleet_of_spools_is_refused_in_a_sentence(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        SpoolFleet(**{"spools": {"north": "spools/north"}, "classes": ["normal"]} | arguments)


def test_the_class_of_normal_operation_may_be_named() -> None:
    fleet = ReadAsTold(parts(1), episodes=Episodes(normal="outer", shots=2))
    fleet.setup("fit")
    assert fleet.episodes.normal == 1
    assert fleet.sites["south"].episodes.normal == 1
