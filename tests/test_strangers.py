"""Everything a site sends is a stranger's: nonsense costs its site the turn, and never the run."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn

from fml_lightning import (
    MAML,
    MLP,
    FedAvg,
    Federation,
    Learner,
    SerialExecutor,
    SiteFailure,
    SiteMemory,
    SiteUpdate,
    UserError,
    Work,
)
from fml_lightning.datamodules import SimulatedFleet, SiteData
from fml_lightning.executors.isolation import SETTINGS
from fml_lightning.federation.outcomes import Limits, sort_outcomes
from fml_lightning.params import clone

MakeLearner = Callable[..., MAML]
MakeTrainer = Callable[..., Trainer]
SECRET = "Jane Doe 42.7"
PARAMS = {"w": torch.ones(2, 3), "b": torch.ones(3)}
FIT = Work("fit", 4, PARAMS, seed=1, local_steps=1)
VALIDATE = Work("validate", 4, PARAMS, seed=1)
GOOD = SiteUpdate("a", 4, {n: torch.ones_like(p) for n, p in PARAMS.items()}, 7, {"train/loss": 0.5}, 0.1, 9)
MEASURED = SiteUpdate("a", 4, {}, 0, {"val/accuracy_before": 0.25, "val/accuracy_after": 0.75})


def checked(outcome: object, work: Work = FIT, limits: Limits | None = None) -> SiteUpdate | SiteFailure:
    """What becomes of the only outcome of a round."""
    updates, failures = sort_outcomes([outcome], work, ["a"], "accuracy", limits or Limits())
    (result,) = [*updates, *failures]
    return result


def with_w(change: Callable[[Tensor], Any]) -> SiteUpdate:
    return replace(GOOD, delta={**GOOD.delta, "w": change(GOOD.delta["w"])})


class Twisted(Tensor):
    """A tensor with code of its own."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise SystemExit(SECRET)


class Evil(int):
    """A number that is within every bound, and large."""

    def __le__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True

    def __int__(self) -> int:
        return 10**18


class Zeros(dict[str, Tensor]):
    """Tensors that read as zeros, whatever is stored."""

    def __getitem__(self, name: str) -> Tensor:
        return torch.zeros_like(super().__getitem__(name))


class Bomb(Mapping[str, Any]):
    """A mapping with code of its own."""

    def __getitem__(self, key: str) -> Any:
        raise ValueError(SECRET)

    def __iter__(self) -> Iterator[str]:
        raise ValueError(SECRET)

    def __len__(self) -> int:
        return 1


NONSENSE: dict[str, tuple[SiteUpdate, str]] = {
    **{
        f"examples {value!r}": (replace(GOOD, examples=value), "examples: expected 1 to 10000000 windows")  # type: ignore[arg-type]
        for value in (float("nan"), float("inf"), -1, 0, 10**18, "7", True, 7.0, None, [7])
    },
    **{
        f"examples_seen {value!r}": (replace(GOOD, examples_seen=value), "examples_seen: expected 1 to")  # type: ignore[arg-type]
        for value in (float("nan"), -1, 0, 10**18, "7", True)
    },
    **{
        f"round {value!r}": (replace(GOOD, round=value), "round: expected the round that it was asked for")  # type: ignore[arg-type]
        for value in (5, "4", None, 4.0, float("nan"))
    },
    **{
        f"seconds {value!r}": (replace(GOOD, seconds=value), "seconds: expected a number of at least 0")  # type: ignore[arg-type]
        for value in (float("nan"), -1.0, "1", None)
    },
    "seconds huge": (replace(GOOD, seconds=10**400), "cannot be read"),
    "delta None": (replace(GOOD, delta=None), "delta: expected tensors by name"),  # type: ignore[arg-type]
    "delta a list": (replace(GOOD, delta=[1.0]), "delta: expected tensors by name"),  # type: ignore[arg-type]
    "delta a bomb": (replace(GOOD, delta=Bomb()), "delta: expected tensors by name"),  # type: ignore[arg-type]
    "delta of no name": (replace(GOOD, delta={}), "delta: expected the 2 parameters that it was sent"),
    "delta of another name": (replace(GOOD, delta={**GOOD.delta, SECRET: PARAMS["b"]}), "got others"),
    "delta NaN": (with_w(lambda w: w * float("nan")), "expected finite numbers"),
    "delta infinite": (with_w(lambda w: w * float("inf")), "expected finite numbers"),
    "delta 1e30": (with_w(lambda w: w * 1e30), "expected a norm of at most 1000 times"),
    "delta float64": (with_w(Tensor.double), "plain float32 tensor of shape (2, 3) on the CPU, got a float64"),
    "delta complex": (with_w(lambda w: w + 1j), "got a complex64 tensor"),
    "delta of integers": (with_w(Tensor.long), "got a int64 tensor"),
    "delta sparse": (with_w(Tensor.to_sparse), "sparse_coo"),
    "delta on no device": (with_w(lambda w: w.to("meta")), "on meta"),
    "delta of another shape": (with_w(lambda w: w[None]), "got a float32 tensor of shape (1, 2, 3)"),
    "delta that broadcasts": (with_w(lambda w: w[:1]), "got a float32 tensor of shape (1, 3)"),
    "delta with a gradient": (with_w(lambda w: w.clone().requires_grad_()), "without a graph"),
    "delta with a graph": (with_w(lambda w: w.clone().requires_grad_() * 2), "without a graph"),
    "delta a parameter": (with_w(nn.Parameter), "got a Parameter"),
    "delta a subclass": (with_w(lambda w: w.as_subclass(Twisted)), "got a Twisted"),
    "delta an array": (with_w(lambda w: w.numpy()), "got a ndarray"),
    "delta a number": (with_w(lambda _: 1.0), "got a float"),
    "examples that compare as they like": (replace(GOOD, examples=Evil(7)), "examples: expected 1 to 10000000"),
    "delta that reads as it likes": (
        replace(GOOD, delta=Zeros(PARAMS)),
        "tensors by name",
    ),
    "metrics None": (replace(GOOD, metrics=None), "metrics: expected numbers by name"),  # type: ignore[arg-type]
    "metrics a list": (replace(GOOD, metrics=["a"]), "metrics: expected numbers by name"),  # type: ignore[arg-type]
    "metrics a bomb": (replace(GOOD, metrics=Bomb()), "metrics: expected numbers by name"),
    **{
        f"metric {value!r}": (replace(GOOD, metrics={"train/loss": value}), "expected finite float32 numbers")  # type: ignore[dict-item]
        for value in (SECRET, None, True, float("nan"), float("-inf"), 1e300, torch.ones(()), 1j, [1.0])
    },
    "metric of 400 digits": (replace(GOOD, metrics={"train/loss": 10**400}), "cannot be read (OverflowError)"),
    **{
        f"a metric's name {name!r:.20}": (replace(GOOD, metrics={name: 1.0}), expected)  # type: ignore[dict-item]
        for name, expected in {
            3: "expected names that are text",
            "": "that can be printed",
            "x" * 300: "of 1 to 200 characters",
            "train/\x1b[2J": "that can be printed",
            "train/a\nb": "that can be printed",
            "train/loss/dataloader_idx_0": "that can be printed",
            "round/sites": "expected names that begin with train/",
            "step": "expected names that begin with train/",
            "epoch": "expected names that begin with train/",
            "val/accuracy_after": "expected names that begin with train/",
            "site/b/train/loss": "expected names that begin with train/",
        }.items()
    },
    "too many metrics": (replace(GOOD, metrics={f"m{i}": 1.0 for i in range(1001)}), "expected at most 1000"),
    "names of megabytes": (
        replace(GOOD, metrics={f"train/a/{i}{'x' * 10**6}": 1.0 for i in range(11)}),
        "expected names of at most 10000000 characters",
    ),
}


def test_what_is_as_it_should_be_passes() -> None:
    assert checked(GOOD) == GOOD
    assert checked(replace(GOOD, examples_seen=None)) == replace(GOOD, examples_seen=None)
    assert checked(replace(GOOD, examples=np.int64(7), metrics={"loss": np.float32(0.5)})) == replace(
        GOOD, metrics={"loss": 0.5}
    )
    assert checked(MEASURED, VALIDATE) == MEASURED
    machine = {"val/accuracy_before/a/\x1b[0m": 0.0, "val/accuracy_after/a/\x1b[0m": 1.0}  # its payloads name it
    assert checked(replace(MEASURED, metrics={**MEASURED.metrics, **machine}), VALIDATE).metrics  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_its_sites_failure(kind: str) -> None:
    """The reason says what was expected, and no value that came."""
    update, expected = NONSENSE[kind]
    failure = checked(update)
    assert isinstance(failure, SiteFailure)
    assert (failure.site, failure.round, failure.permanent) == ("a", 4, False)
    assert expected in failure.reason
    assert SECRET not in failure.reason
    assert len(failure.reason) < 300


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"val/accuracy_after": 1.0},
        {**MEASURED.metrics, "val/accuracy_after/pump": 1.0},  # and not before
        {**MEASURED.metrics, "train/loss": 1.0},
        {**MEASURED.metrics, "val/loss_after": float("nan")},
    ],
)
def test_a_measurement_that_lacks_or_adds_is_its_sites_failure(metrics: dict[str, float]) -> None:
    failure = checked(replace(MEASURED, metrics=metrics), VALIDATE)
    assert isinstance(failure, SiteFailure)
    assert failure.reason.startswith("metrics: expected")


def test_the_limits_are_the_users() -> None:
    """‖Δ‖ = 3 and ‖w‖ = 3: once the model's norm is allowed, half of it is not."""
    assert isinstance(checked(GOOD, limits=Limits(max_update_norm=1.0)), SiteUpdate)
    assert isinstance(checked(GOOD, limits=Limits(max_update_norm=0.5)), SiteFailure)
    assert isinstance(checked(with_w(lambda w: w * 1e30), limits=Limits(max_update_norm=None)), SiteUpdate)
    assert isinstance(checked(GOOD, limits=Limits(max_examples=9)), SiteUpdate)
    assert isinstance(checked(GOOD, limits=Limits(max_examples=6)), SiteFailure)
    zero = replace(FIT, params={n: torch.zeros_like(p) for n, p in PARAMS.items()})
    assert isinstance(checked(GOOD, zero, Limits(max_update_norm=3.1)), SiteUpdate)  # of 1, where the model is 0
    for wrong in ({"max_examples": 0}, {"max_update_norm": 0.0}, {"max_update_norm": float("nan")}):
        with pytest.raises(UserError, match="max_examples >= 1 and max_update_norm > 0"):
            Federation(FedAvg(MLP(2, 2)), **wrong)


class Odd(str):
    """A text with code of its own."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise ValueError(SECRET)


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        {},
        ValueError(SECRET),
        ValueError,
        "a",
        b"a",
        GOOD.delta,
        *(replace(GOOD, site=site) for site in (None, 3, b"a", ["a"], SECRET * 9, "\x1b[31m", Odd("a"))),
        SiteFailure(None, 4, "x"),  # type: ignore[arg-type]
    ],
)
def test_what_no_asked_site_sent_is_a_failure_beside_theirs(outcome: object) -> None:
    honest = replace(GOOD, site="b")
    updates, failures = sort_outcomes([outcome, honest], FIT, ["b", "a"], "accuracy", Limits())
    assert updates == [honest]
    assert len(failures) == 2
    assert {f.reason for f in failures if f.site == "a"} == {"it did not answer"}
    assert all(f.site.isprintable() and len(f.site) <= 200 for f in failures)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (None, "expected a reason, got a NoneType"),
        (ValueError(SECRET), "expected a reason, got a ValueError"),
        ("red\x1b[31m\nalert", r"red\x1b[31m\nalert"),
        ("x" * 10**7, "x" * 1991 + "…#" + hashlib.sha256(b"x" * 10**7).hexdigest()[:7]),
    ],
)
def test_an_odd_reason_is_made_plain(reason: Any, said: str) -> None:
    failure = checked(SiteFailure("a", "?", reason, float("nan"), "yes"))  # type: ignore[arg-type]
    assert failure == SiteFailure("a", 4, said, 0.0, permanent=False)


@pytest.mark.parametrize("first", [GOOD, SiteFailure("a", 4, "asleep")])
def test_who_answers_twice_has_failed_in_whatever_order(first: SiteUpdate | SiteFailure) -> None:
    other = replace(GOOD, examples=8)
    for outcomes in ([first, other], [other, first]):
        updates, failures = sort_outcomes(outcomes, FIT, ["a"], "accuracy", Limits())
        assert not updates
        assert failures == [SiteFailure("a", 4, "expected one answer, got 2")]


class Scripted:
    """An executor that answers for plant1 what it is told, and honestly (+2 everywhere) for plant2."""

    def __init__(self, answers: Callable[[Work], list[Any]]) -> None:
        self.answers = answers

    def run(
        self, learner: Learner, work: Work, sites: Mapping[str, LightningDataModule], memory: SiteMemory
    ) -> Iterator[Any]:
        if "plant1" in sites:
            yield from self.answers(work)
        if "plant2" in sites:
            yield honest("plant2", work)


def honest(site: str, work: Work) -> SiteUpdate:
    return SiteUpdate(site, work.round, {n: torch.full_like(p, 2.0) for n, p in work.params.items()}, 7)


HOSTILE: dict[str, Callable[[Work], list[Any]]] = {
    "nothing": lambda work: [],
    "None": lambda work: [None],
    "a dict": lambda work: [{"site": "plant1"}],
    "an exception": lambda work: [KeyboardInterrupt()],
    "no site": lambda work: [replace(honest("plant1", work), site=None)],  # type: ignore[arg-type]
    "twice": lambda work: [honest("plant1", work)] * 2,
    "not asked": lambda work: [honest("plant9", work)],
    "huge": lambda work: [SiteUpdate("plant1", work.round, {n: p + 1e30 for n, p in work.params.items()}, 7)],
    "a claim": lambda work: [replace(honest("plant1", work), examples=10**18)],
    "a metric that Lightning refuses": lambda work: [
        replace(honest("plant1", work), metrics={"train/x/dataloader_idx_0": 1.0})
    ],
    "an odd failure": lambda work: [SiteFailure("plant1", None, None, None, None)],  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_run_goes_on_with_the_honest_site(
    kind: str, fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    learner = make_learner()
    before = clone(learner.params)
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(Federation(learner, executor=Scripted(HOSTILE[kind])), datamodule=fleet)
    assert trainer.callback_metrics["round/sites"] == 1
    for name, p in learner.params.items():
        torch.testing.assert_close(p, before[name] + 4.0, rtol=0, atol=1e-5)


def test_a_hostile_measurement_does_not_end_the_validation(
    fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    """Accuracy of plant2 alone: ¾."""

    class Measuring:
        def run(self, learner: Learner, work: Work, sites: Any, memory: SiteMemory) -> Iterator[Any]:
            lacking = {"val/accuracy_before": 0.5, "val/accuracy_after": 0.5, "val/accuracy_after/pump": 1.0}
            yield SiteUpdate("plant1", work.round, {}, 0, lacking)
            yield SiteUpdate("plant2", work.round, {}, 0, MEASURED.metrics)

    trainer = quiet_trainer()
    trainer.validate(Federation(make_learner(), executor=Measuring()), datamodule=fleet, verbose=False)
    assert trainer.callback_metrics["val/accuracy_after"] == 0.75
    assert trainer.callback_metrics["val/failures"] == 1


class UnreadableError(UserError):
    """An exception whose message raises."""

    def __str__(self) -> str:
        raise SystemExit(SECRET)


RAISED = [
    SystemExit(SECRET),
    KeyboardInterrupt(SECRET),
    GeneratorExit(SECRET),
    MemoryError(SECRET),
    RecursionError(SECRET),
    StopIteration(SECRET),
    ValueError(SECRET),
    BaseException(SECRET),
    UnreadableError(SECRET),
]
MOMENTS = ["prepare_data", "setup", "transfer_batch_to_device", "teardown", "num_examples"]


class Raising(SiteData):
    """A site that raises something at some moment of its training."""

    error: BaseException | None = None
    moment = ""

    def __getattribute__(self, name: str) -> Any:
        error, moment = (object.__getattribute__(self, key) for key in ("error", "moment"))
        if error is not None and name == moment:
            raise error
        return object.__getattribute__(self, name)


@pytest.fixture
def raising(fleet: SimulatedFleet) -> Raising:
    """plant1 of the fleet, which raises nothing yet."""
    fleet.setup("fit")
    site = fleet.sites["plant1"]
    return Raising("plant1", site.recordings, site.preprocessing, site.episodes)


@pytest.mark.parametrize(
    ("error", "moment"),
    [*((error, "train_dataloader") for error in RAISED), *((RAISED[0], moment) for moment in MOMENTS)],
    ids=lambda case: case if isinstance(case, str) else type(case).__name__,
)
def test_whatever_a_site_raises_is_its_failure_and_says_nothing_of_its_data(
    error: BaseException, moment: str, raising: Raising, make_learner: MakeLearner, tmp_path: Path
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    learner = make_learner()
    state, settings = torch.get_rng_state(), [get() for get, _ in SETTINGS]
    work, memory = Work("fit", 0, clone(learner.shared), seed=3, local_steps=1), SiteMemory(tmp_path)
    raising.error, raising.moment = error, moment
    (failure,) = SerialExecutor().run(learner, work, {"plant1": raising}, memory)
    assert isinstance(failure, SiteFailure)
    assert SECRET not in failure.reason
    assert type(error).__name__ in failure.reason or isinstance(error, UserError | StopIteration)
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.equal(torch.get_rng_state(), state)
    assert [get() for get, _ in SETTINGS] == settings
    raising.error = None  # and the next round is as if nothing had been
    (again,) = SerialExecutor().run(learner, work, {"plant1": raising}, memory)
    assert isinstance(again, SiteUpdate)


class Fragile(nn.Linear):
    """A network that raises where a window holds large values."""

    error: BaseException = SystemExit(SECRET)

    def forward(self, x: Tensor) -> Tensor:
        """Raise, if training reaches it."""
        if x.requires_grad or not x.is_floating_point() or torch.is_grad_enabled():
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize("error", RAISED[:5], ids=lambda error: type(error).__name__)
def test_whatever_a_network_raises_is_a_failure(error: BaseException, raising: Raising, tmp_path: Path) -> None:
    net = Fragile(32, 4)
    net.error = error
    learner = FedAvg(net)
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=1)
    (failure,) = SerialExecutor().run(learner, work, {"plant1": raising}, SiteMemory(tmp_path))
    assert isinstance(failure, SiteFailure)
    assert type(error).__name__ in failure.reason
    assert "Fragile.forward, line" in failure.reason
    assert SECRET not in failure.reason


def test_a_site_that_wants_the_process_to_end_only_sits_out(
    raising: Raising, fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    raising.error, raising.moment = KeyboardInterrupt(), "train_dataloader"
    fleet.sites["plant1"] = raising
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(Federation(make_learner(), local_steps=1), datamodule=fleet)
    assert trainer.global_step == 2
    assert not trainer.interrupted
    assert trainer.callback_metrics["round/failures"] == 1


class Interrupted(Raising):
    """A site at whose work the user presses Ctrl-C, or the system ends the process."""

    number = signal.SIGINT
    swallows = False

    def train_dataloader(self) -> Iterable[Any]:
        """Be interrupted."""
        try:
            signal.raise_signal(self.number)
        except BaseException:
            if not self.swallows:
                raise
        return super().train_dataloader()


@pytest.fixture
def interrupted(raising: Raising, fleet: SimulatedFleet) -> Interrupted:
    """plant1, in the fleet."""
    site = Interrupted("plant1", raising.recordings, raising.preprocessing, raising.episodes)
    fleet.sites["plant1"] = site
    return site


@pytest.mark.parametrize("swallows", [False, True])
def test_a_real_ctrl_c_during_a_sites_work_ends_the_run(
    swallows: bool,
    interrupted: Interrupted,
    fleet: SimulatedFleet,
    make_learner: MakeLearner,
    quiet_trainer: MakeTrainer,
    tmp_path: Path,
) -> None:
    """Also where the site's code catches what it raises."""
    handler = signal.getsignal(signal.SIGINT)
    interrupted.swallows = swallows
    learner = make_learner()
    work = Work("fit", 0, clone(learner.shared), seed=3, local_steps=1)
    with pytest.raises(KeyboardInterrupt):
        list(SerialExecutor().run(learner, work, {"plant1": interrupted}, SiteMemory(tmp_path)))
    assert signal.getsignal(signal.SIGINT) is handler
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    with pytest.raises(SystemExit):  # what Lightning makes of it
        trainer.fit(Federation(learner, local_steps=1), datamodule=fleet)
    assert trainer.interrupted
    assert trainer.global_step == 0
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_real_termination_during_a_sites_work_ends_the_run(
    interrupted: Interrupted, fleet: SimulatedFleet, make_learner: MakeLearner, quiet_trainer: MakeTrainer
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    interrupted.number = signal.SIGTERM
    trainer = quiet_trainer(max_steps=3, limit_val_batches=0)
    with pytest.raises(SystemExit):
        trainer.fit(Federation(make_learner(), local_steps=2), datamodule=fleet)
    assert trainer.global_step < 3
    assert signal.getsignal(signal.SIGTERM) is handler
