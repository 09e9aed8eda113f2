"""Cards: their numbers against closed forms and by hand, and the verdicts that these give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from fml_lightning import MAML, MLP, FedAvg, InnerLoop, Learner, Reconstruction, Regression, personalize
from fml_lightning.personal import interval
from fml_lightning.personal.card import Card, Current, Qualification, Windows, beats_current, judged, summary
from fml_lightning.personal.registry import Registry, Version
from fml_lightning.personal.steps import chosen_steps, held_out
from fml_lightning.preprocessing import Preprocessing, RawWindows, Windowing
from fml_lightning.types import Episode, Examples


def card(**known: Any) -> Card:
    """A card of a good model, but for what is given."""
    good = {
        "site": "plant1",
        "machine": "pump",
        "before": 0.5,
        "after": 0.9,
        "metric": "accuracy",
        "interval": (0.8, 0.95),
        "guess": 0.25,
        "shots": 5,
        "support": Windows(count=20),
        "query": Windows(count=40),
        "steps": 3,
        "learner": "fml_lightning.MAML",
        "adaptation": "InnerLoop()",
        "seconds": 0.1,
        "made": "2026-11-27T00:00:00+00:00",
        "verdict": "ship",
    }
    return Card(**{**good, **known})


def test_what_a_card_cannot_know_is_said() -> None:
    normal = Qualification(windows=40, alarms=0, rate=0.0, interval=(0.0, 0.09))
    assert "whether it finds one is not known" in summary(card(qualification=normal))
    some = msgspec.structs.replace(normal, windows=20)
    assert "judged by" not in summary(card(qualification=some))
    outer = Windows(count=40, of_class={"outer": 40})
    assert "it was judged by windows of outer alone" in summary(card(query=outer))


@pytest.mark.parametrize(
    ("known", "verdict", "reason"),
    [
        ({}, "ship", ""),
        ({"before": 0.97}, "refused", "adapting made it worse: accuracy 0.970 before, 0.900 after"),
        ({"before": 0.92}, "doubtful", "adapting has not made it better"),
        ({"guess": 0.85}, "doubtful", "no better than guessing"),
        ({"query": Windows(count=4)}, "doubtful", "judged by 4 windows"),
        ({"warnings": ("window 3",)}, "doubtful", "may not be what their label says"),
        (
            {"qualification": Qualification(windows=20, alarms=9, rate=0.45, interval=(0.26, 0.66))},
            "refused",
            "it calls 45% of 20 normal windows faulty",
        ),
        (
            {"qualification": Qualification(windows=20, alarms=1, rate=0.05, interval=(0.01, 0.24))},
            "doubtful",
            "5.0% of 20 normal windows",
        ),
        ({"metric": "loss", "higher_is_better": False, "after": 0.9, "before": 0.97}, "ship", ""),
        ({"metric": "loss", "higher_is_better": False, "after": 0.9, "before": 0.5}, "refused", "made it worse"),
        ({"interval": None, "guess": None, "before": 0.97}, "ship", ""),
    ],
)
def test_the_verdict_follows_from_the_card(known: dict[str, Any], verdict: str, reason: str) -> None:
    found = judged(card(**known))
    assert found.verdict == verdict
    assert (not found.reasons) == (not reason)
    assert reason in "; ".join(found.reasons)


def test_wilsons_interval_is_that_of_scipy() -> None:
    for hits, count in [(0, 7), (7, 7), (3, 10), (950, 1000)]:
        expected = binomtest(hits, count).proportion_ci(method="wilson")
        assert interval.of_rate(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_mean_of_rates_covers_as_often_as_it_says() -> None:
    """Of 2,000 balanced accuracies with known recalls, 95 % lie within; two standard errors are 1 %."""
    rng, recalls, counts = np.random.default_rng(0), np.array([0.9, 0.6, 0.99]), np.array([40, 25, 60])
    inside = 0
    for _ in range(2000):
        hits = rng.binomial(counts, recalls)
        low, high = interval.of_mean_rate(list(zip(hits.tolist(), counts.tolist(), strict=True)))
        inside += low <= recalls.mean() <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)


def test_resampling_gives_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = interval.by_resampling(lambda rows: float(values[rows].mean()), np.zeros(400, np.int64))
    assert found is not None
    half = 1.96 * values.std() / 20
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.25 * half)
    assert interval.by_resampling(lambda _: float("nan"), np.zeros(5, np.int64)) is None


def test_each_group_is_resampled_by_itself() -> None:
    group = np.array([0, 1, 1, 1])

    def share(rows: np.ndarray[Any, Any]) -> float:
        return float((group[rows] == 0).mean())

    assert interval.by_resampling(share, group) == (0.25, 0.25)


def episode(shots: int, shift: float = 2.0, queries: int = 30) -> Episode:
    """Two classes of windows with 3 features, `normal` around 0 and `worn` around `shift`."""
    generator = torch.Generator().manual_seed(0)

    def windows(count: int) -> Examples:
        y = torch.tensor([0, 1] * count)[None]
        return Examples(torch.randn(1, 2 * count, 3, generator=generator) + shift * y[..., None], y)

    return Episode(
        windows(shots),
        windows(queries),
        machines=("pump",),
        site="plant1",
        starts=1_700_000_000_000_000 + 1_000_000 * torch.arange(2 * shots)[None],
        query_starts=1_700_000_100_000_000 + 1_000_000 * torch.arange(2 * queries)[None],
    )


def learner(**loop: Any) -> Learner:
    torch.manual_seed(0)
    return MAML(MLP(3, 2, hidden=()), inner_loop=InnerLoop(**{"lr": 0.05, "steps": 2, **loop}))


def test_a_card_tells_what_the_model_was_made_of_and_judged_by() -> None:
    result = personalize(learner(), episode(5), ("normal", "worn"))
    card, model = result.card, result.model
    query = episode(5).query
    predicted = model.outputs(query.x[0]).argmax(-1)
    assert card.after == pytest.approx(float((predicted == query.y[0]).float().mean()))
    assert card.interval == interval.of_rate(round(card.after * 60), 60)
    assert card.guess == 0.5
    assert (card.site, card.machine, card.shots, card.steps, card.steps_chosen) == ("plant1", "pump", 5, 2, False)
    assert card.support.of_class == {"normal": 5, "worn": 5}
    assert (card.support.first, card.support.last) == ("2023-11-14T22:13:20+00:00", "2023-11-14T22:13:29+00:00")
    assert card.query.first == "2023-11-14T22:15:00+00:00"
    assert card.qualification is not None
    normal = query.y[0] == 0
    assert card.qualification.alarms == int((predicted[normal] == 1).sum())
    assert card.qualification.windows == 30
    assert len({card.support.sha256, card.query.sha256}) == 2
    assert card.learner == "fml_lightning.learners.maml.MAML"
    assert msgspec.convert(card.to_json(), Card) == card


def test_a_model_that_calls_normal_windows_faulty_is_refused() -> None:
    """Its labels are swapped in the support set: what it learns is the opposite of what is so."""
    right = episode(5)
    wrong = Examples(right.support.x, 1 - right.support.y)
    card = personalize(learner(lr=1.0, steps=5), Episode(wrong, right.query), ("normal", "worn")).card
    assert card.verdict == "refused"
    assert card.qualification is not None
    assert card.qualification.rate > 0.2


@pytest.mark.parametrize("wrong", [True, False])
def test_a_model_that_is_wrong_of_the_only_class_that_it_was_judged_by_is_doubtful(wrong: bool) -> None:
    """No other class is there to compare with: of two classes a guess is right in half of the windows."""
    worn = torch.ones(1, 20, dtype=torch.int64)
    support = Examples(torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0)), worn[:, :5])
    query = Examples(torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(1)), worn)
    given = learner(lr=1e-9)
    bias = dict(given.net.named_parameters())["0.bias"]
    torch.nn.init.constant_(bias, 0).data[0] = 99 if wrong else -99
    card = personalize(given, Episode(support, query, machines=("pump",)), ("normal", "worn")).card
    assert (card.after, card.guess, card.verdict) == ((0, 0.5, "doubtful") if wrong else (1, 0.5, "ship"))
    assert [each[:34] for each in card.reasons] == ["it may be no better than guessing:"] * wrong


def test_steps_are_chosen_where_there_is_enough_to_tell() -> None:
    """Two small steps are too few for classes that are well apart; five windows of each tell nothing."""
    assert chosen_steps(learner().eval(), episode(5)) is None
    assert chosen_steps(learner().eval(), episode(120)) == 8  # of 0 to 4 · 2
    card = personalize(learner(), episode(120), ("normal", "worn")).card
    assert (card.steps, card.steps_chosen) == (8, True)
    normal_only = episode(40)
    one = Examples(normal_only.support.x[:, ::2], normal_only.support.y[:, ::2])
    assert chosen_steps(learner().eval(), Episode(one, normal_only.query)) is None


def test_steps_stay_the_learners_own_where_none_is_clearly_better() -> None:
    """Windows of one distribution, whatever their label: no number of steps is clearly better."""
    assert chosen_steps(learner(lr=1e-6).eval(), episode(40, shift=0.0)) in (2, None)


def test_the_last_windows_in_time_are_held_out() -> None:
    starts = torch.tensor([5, 1, 9, 2, 3, 4])
    held = held_out(torch.zeros(6, dtype=torch.int64), starts)
    assert starts[held].tolist() == [5, 9]


def test_a_regression_has_an_interval_too() -> None:
    from fml_lightning import Regression

    torch.manual_seed(0)
    x = torch.randn(1, 60, 3)
    y = x.sum(-1)
    regression = MAML(MLP(3, 1, hidden=()), objective=Regression(), inner_loop=InnerLoop(lr=0.1, steps=5))
    card = personalize(regression, Episode(Examples(x[:, :20], y[:, :20]), Examples(x, y)), ()).card
    assert card.interval is not None
    assert card.interval[0] <= card.after <= card.interval[1]
    assert (card.guess, card.qualification, card.support.of_class) == (None, None, {})


@pytest.mark.parametrize(("shift", "found"), [(60.0, 20), (0.0, 0)])
def test_anomalies_that_are_all_found_or_none_are_no_certainty(shift: float, found: int) -> None:
    """Of 20 normal windows none is an alarm; of 20 anomalies, which are far away or just alike, all or none."""
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 1] * 20)[None]
    normal = torch.randn(1, 20, 3, generator=generator)
    query = torch.randn(1, 40, 3, generator=generator) / 4 + shift * y[..., None]
    given = Episode(Examples(normal, torch.zeros(1, 20, dtype=torch.int64)), Examples(query, y))
    for metric, expected in (
        ("balanced_accuracy", interval.of_mean_rate([(20, 20), (found, 20)])),
        ("false_alarm_rate", interval.of_rate(0, 20)),
    ):
        objective = Reconstruction(metric=metric, quantile=1.0)
        card = personalize(FedAvg(MLP(3, 3, hidden=()), objective, adaptation=InnerLoop(lr=1e-3)), given, ()).card
        assert card.after == {"balanced_accuracy": (20 + found) / 40, "false_alarm_rate": 0.0}[metric]
        assert card.interval == expected
        assert card.guess == {"balanced_accuracy": 0.5, "false_alarm_rate": None}[metric]
        assert any("no better than guessing" in each for each in card.reasons) == (card.after == 0.5)
        current = Current(version="v1", value=card.after - 0.025 if card.higher_is_better else 0.05)  # one window
        card = msgspec.structs.replace(card, verdict="ship", current=current)
        assert not beats_current(card, "v1")[0]


def test_the_current_model_is_judged_by_the_same_windows(tmp_path: Path) -> None:
    """Its centre is another one: what it is judged by are the windows' features as they are, without its own."""
    first = personalize(learner(), episode(5, shift=-1.0), ("normal", "worn"))
    first.model.centre += 0.5
    registry = Registry(tmp_path)
    current = registry.add(first.model, first.card)
    fresh = episode(5)
    centre = torch.tensor([[0.1, 0.2, 0.3]])
    fresh = replace(fresh, centre=centre)  # of windows that are centred already
    card = personalize(learner(lr=1.0, steps=5), fresh, ("normal", "worn"), current=current).card
    features = fresh.query.x[0] + centre[0]
    predicted = first.model(features).argmax(-1)
    assert card.current == Current(
        version="v1", value=pytest.approx(float((predicted == fresh.query.y[0]).float().mean()))
    )
    assert card.current.value != card.after  # type: ignore[union-attr]
    assert f"v1, current when it was made, has {card.current.value:.3f} on the same windows" in summary(card)  # type: ignore[union-attr]
    assert msgspec.convert(card.to_json(), Card) == card


@pytest.mark.parametrize(
    ("of_current", "problem"),
    [
        ({"classes": ("normal", "torn")}, "its classes are normal, torn"),
        ({"told": {"speed": 3.0}}, "other numbers were told of the machine then"),
        ({"preprocessing": Preprocessing(Windowing(8, 8), RawWindows(), ("x",), 100.0)}, "preprocessed otherwise"),
        ({"objective": Regression()}, "it is judged by"),
    ],
)
def test_a_current_model_that_sees_something_else_is_not_compared(
    tmp_path: Path, of_current: dict[str, Any], problem: str
) -> None:
    preprocessing = Preprocessing(Windowing(8, 8), RawWindows(), ("x",), 200.0)
    first = personalize(learner(), episode(5), ("normal", "worn"), preprocessing=preprocessing)
    for name, value in of_current.items():
        setattr(first.model, name, value)
    current = Registry(tmp_path).add(first.model, first.card)
    card = personalize(
        learner(), episode(5), ("normal", "worn"), preprocessing=preprocessing, current=current
    ).card
    assert card.current is not None
    assert card.current.value is None
    assert problem in card.current.problem
    assert f"cannot be compared with v1, current when it was made: {card.current.problem}" in summary(card)


def test_a_rate_that_time_stamps_tell_a_little_otherwise_is_the_same_rate(tmp_path: Path) -> None:
    near, far = (
        personalize(learner(), episode(5), ("normal", "worn"), preprocessing=preprocessing, current=current).card
        for preprocessing, current in (
            (Preprocessing(Windowing(8, 8), RawWindows(), ("x",), rate), _first(tmp_path / str(rate)))
            for rate in (200.0001, 250.0)
        )
    )
    assert near.current is not None
    assert far.current is not None
    assert (near.current.value is None, far.current.value is None) == (False, True)


def _first(folder: Path) -> Version:
    preprocessing = Preprocessing(Windowing(8, 8), RawWindows(), ("x",), 200.0)
    first = personalize(learner(), episode(5), ("normal", "worn"), preprocessing=preprocessing)
    return Registry(folder).add(first.model, first.card)


def test_a_current_model_that_cannot_be_read_is_not_compared(tmp_path: Path) -> None:
    current = _first(tmp_path)
    current.model.write_bytes(b"nothing")
    card = personalize(learner(), episode(5), ("normal", "worn"), current=current).card
    assert card.current is not None
    assert "it cannot be read" in card.current.problem
