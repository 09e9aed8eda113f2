"""Consent: what a site refuses, and what of its outcomes may leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fml_lightning import MAML, MLP, Classification, Objective, SiteFailure, SiteUpdate, UserError, Work
from fml_lightning.executors.consent import (
    FAILED,
    NOT_YET,
    REFUSED,
    Consent,
    known_metrics,
    next_aliases,
    told_preprocessing,
)
from fml_lightning.names import quoted
from fml_lightning.preprocessing import Features, LogBandPowers, Preprocessing, Standardize, Windowing
from fml_lightning.preprocessing.statistics import Statistics

PUMP, FAN = "pump 7/Halle Süd", "fan"


def work(verb: Any = "fit", round_: int = 0, run: str = "r1") -> Work:
    return Work(verb, round_, {}, 0, run=run)


def learner(**options: Any) -> MAML:
    return MAML(MLP(4, 2, hidden=()), **options)


@pytest.mark.parametrize(
    ("consent", "asked", "trained", "reason"),
    [
        (Consent(), work(), 0, None),
        (Consent(), work("test", 10**9, ""), 10**9, None),
        (Consent(verbs=("fit",)), work("validate"), 0, "does not allow validate (consent.verbs)"),
        (Consent(rounds=3), work(round_=2), 2, None),
        (Consent(rounds=3), work(round_=3), 3, "allows 3 rounds of a run (consent.rounds)"),
        (Consent(rounds=3), work(round_=2), 5, None),  # a run that was resumed repeats rounds
        (Consent(rounds=3), work(round_=2), 6, "allows 3 rounds of a run (consent.rounds)"),
        (Consent(rounds=3), work("validate", 3), 6, None),
        (Consent(runs=("r1",)), work(), 0, None),
        (Consent(runs=("r1",)), work("test", run="r2"), 0, "does not name the run r2 (consent.runs)"),
        (Consent(runs=("r1",)), work("rehearse", run=""), 0, "without an id (consent.runs)"),
    ],
)
def test_what_is_refused_and_which_line_says_so(
    consent: Consent, asked: Work, trained: int, reason: str | None
) -> None:
    said = consent.refusal(asked, trained)
    assert (said is None) == (reason is None)
    assert reason is None or (said is not None and reason in said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"verbs": ("fit", "steal")},
            "consent.verbs: expected some of rehearse, fit, validate, test, got 'steal'",
        ),
        ({"verbs": ("sums",)}, "consent.verbs: expected some of rehearse, fit, validate, test, got 'sums'"),
        ({"rounds": 0}, "consent.rounds: expected at least 1, got 0"),
        ({"runs": ("",)}, "consent.runs"),
    ],
)
def test_a_consent_that_means_nothing_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Consent(**settings)


METRICS = {
    "val/accuracy_before": 0.5,
    f"val/accuracy_before/{quoted(FAN)}": 0.25,
    f"val/accuracy_before/{quoted(PUMP)}": 0.75,
    "val/accuracy_after": 0.625,
    f"val/accuracy_after/{quoted(FAN)}": 1.0,
    f"val/accuracy_after/{quoted(PUMP)}": 0.25,
    "val/of pump 7": 1.0,  # names that a learner of one's own gives
    f"val/mine/{quoted(PUMP)}": 1.0,
    "train/meta_loss": 1.0,
    "test/accuracy_after": 1.0,
    "pump 7": 1.0,
    "val": 1.0,
    "val/": 1.0,
}
MEAN = {"val/accuracy_before": 0.5, "val/accuracy_after": 0.625}


def left(consent: Consent, metrics: dict[str, float], verb: str = "validate") -> dict[str, float]:
    update = SiteUpdate("plant1", 3, {"net.1.bias": torch.ones(2)}, 7, metrics, 1.5, 9)
    machines = consent.machines_named(update, verb, learner())
    told = consent.leaving(update, verb, learner(), next_aliases({}, machines))
    assert isinstance(told, SiteUpdate)
    assert (told.site, told.round, told.examples, told.seconds, told.examples_seen) == ("plant1", 3, 7, 1.5, 9)
    assert set(told.delta) == ({"net.1.bias"} if verb == "fit" else set())
    return dict(told.metrics)


def test_metrics_of_machines_leave_under_their_names_or_aliases_or_not_at_all() -> None:
    named = left(Consent(machines="names"), METRICS)
    assert list(named) == [name for name in METRICS if name.startswith("val/") and name != "val/"]
    aliased = left(Consent(), METRICS)
    assert list(aliased.items()) == [
        ("val/accuracy_after", 0.625),
        ("val/accuracy_after/machine-1", 1.0),
        ("val/accuracy_after/machine-2", 0.25),
        ("val/accuracy_before", 0.5),
        ("val/accuracy_before/machine-1", 0.25),
        ("val/accuracy_before/machine-2", 0.75),
    ]
    assert left(Consent(metrics="mean", machines="names"), METRICS) == MEAN
    assert left(Consent(metrics="mean"), METRICS) == MEAN
    assert left(Consent(), {"train/meta_loss": 0.5, "train/pump 7": 1.0, "val/loss": 1.0}, "fit") == {
        "train/meta_loss": 0.5
    }


@pytest.mark.parametrize(
    "consent", [Consent(), Consent(metrics="mean", machines="names"), Consent(metrics="mean")]
)
@pytest.mark.parametrize(
    ("permanent", "not_yet", "said"), [(True, False, REFUSED), (False, True, NOT_YET), (False, False, FAILED)]
)
def test_no_sentence_leaves_that_may_name_a_machine(
    consent: Consent, permanent: bool, not_yet: bool, said: str
) -> None:
    failure = SiteFailure("plant1", 3, f"{PUMP}: label 3.5 of /data/pump7.csv", 2.0, permanent, not_yet)
    assert consent.leaving(failure, "fit", learner(), {}) == SiteFailure(
        "plant1", 3, said, 2.0, permanent, not_yet
    )
    told = Consent(machines="names").leaving(failure, "fit", learner(), {})
    assert told == failure


class Doubled(Objective):
    metric, higher_is_better = "doubled", False

    def loss(self, outputs: Any, examples: Any) -> Any: ...

    def metrics(self, outputs: Any, examples: Any, calibration: Any = None) -> Any: ...


def test_metrics_are_known_by_the_objective() -> None:
    def accuracy(predicted: Any, targets: Any) -> Any: ...

    accuracy.higher_is_better = True  # type: ignore[attr-defined]
    plain = known_metrics(learner())
    assert plain == {"meta_loss"} | {
        f"{name}_{moment}" for name in ("accuracy", "balanced_accuracy", "loss") for moment in ("before", "after")
    }
    assert known_metrics(learner(objective=Classification(metrics={"f1": accuracy}))) == plain | {
        "f1_before",
        "f1_after",
    }
    assert {"false_alarm_rate_after"} <= known_metrics(learner(objective=Classification(normal=0)))
    assert known_metrics(learner(objective=Doubled())) == {"meta_loss", "doubled_before", "doubled_after"}


class OfAFile(Features):
    def __init__(
        self, file: str = "/data/pump7.csv", machines: dict[str, int] | None = None, depth: int = 3
    ) -> None:
        self.file = file
        self.machines = machines or {"pump 7": 1}
        self.depth = depth

    def __call__(self, windows: Any, sample_rate: float) -> Any: ...

    def columns(self, channels: Any, samples: Any = None) -> Any: ...


def test_preprocessing_is_told_setting_by_setting_without_what_the_plant_has_named() -> None:
    ours = Preprocessing(Windowing(length=512), LogBandPowers(bands=16), sample_rate=2000.0)
    told = told_preprocessing(ours.describe())
    assert told["windowing.length"] == 512
    assert told["features"] == "fml_lightning.preprocessing.LogBandPowers"
    assert told["features.bands"] == 16
    assert told["sample_rate"] == 2000.0
    assert told["channels"] == "none"
    own = Preprocessing(
        features=OfAFile(),
        channels=("pump 7, drive end",),
        unit="pump-g",
        standardize=Standardize(statistics=Statistics([[17.25]], [[2.0]])),
    )
    told = told_preprocessing(own.describe())
    text = repr(told)
    assert "pump" not in text
    assert "OfAFile" not in text
    assert "17.25" not in text
    assert told["features.depth"] == 3
    assert told == told_preprocessing(own.describe())
    other = Preprocessing(features=OfAFile("/data/pump8.csv"), channels=("pump 7, drive end",))
    changed = told_preprocessing(other.describe())
    assert told["features.file"] != changed["features.file"]
    assert told["channels"] == changed["channels"]
