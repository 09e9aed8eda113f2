"""A site answers what it consents to, once, and nothing of its own leaves that it keeps to itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from fml_lightning import MAML, MLP, Ditto, InnerLoop, SerialExecutor, SiteFailure, SiteMemory, SiteUpdate, Work
from fml_lightning.datamodules import Episodes, Recording, SimulatedFleet, SiteData
from fml_lightning.errors import NotYetError, UserError
from fml_lightning.executors import site_process
from fml_lightning.executors.agreement import agreement
from fml_lightning.executors.consent import NOT_YET, REFUSED, Consent
from fml_lightning.executors.messages import Answered, Asked, outcome_of, request
from fml_lightning.executors.site_process import COPY, DISK, SiteProcess
from fml_lightning.executors.stamps import Stamps
from fml_lightning.executors.wire import pack, unpack
from fml_lightning.learners.learner import Learner
from fml_lightning.params import clone
from fml_lightning.preprocessing import LogBandPowers, Preprocessing, Windowing
from fml_lightning.types import Episode

MakeLearner = Callable[..., MAML]
OPEN = Consent(machines="names")
NAMES = ("presse-geheim", "pumpe geheim/7")
LABEL = "riss-geheim"
FEATURE = 7919.03125
FILE = "/halle/geheim.csv"
SECRETS = [b"geheim", repr(FEATURE).encode(), b"7919.03"]


def process(site: LightningDataModule, learner: Learner, folder: Path, consent: Consent = OPEN) -> SiteProcess:
    return SiteProcess("plant1", learner, site, folder, consent, ("a", "b"))


def asking(learner: Learner, verb: Any = "fit", round_: int = 0, stamp: int = 1, run: str = "r1") -> Asked:
    work = Work(verb, round_, clone(learner.shared), 5, 2 if verb == "fit" else 0, run)
    return Asked(work, agreement(learner), stamp, 60.0)


def answered(at: SiteProcess, asked: Asked) -> Answered:
    came = outcome_of(*unpack(at.answer(request(asked))), "plant1", asked.work.round)
    assert isinstance(came, Answered)
    assert (came.stamp, came.run, came.verb) == (asked.stamp, asked.work.run, asked.work.verb)
    return came


def reason(at: SiteProcess, asked: Asked) -> str:
    outcome = answered(at, asked).outcome
    assert isinstance(outcome, SiteFailure)
    return outcome.reason


def sent(at: SiteProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (at.folder / "sent.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", [MAML, Ditto])
def test_a_site_answers_with_the_bits_of_the_serial_executor(
    kind: type[Learner], fleet: SimulatedFleet, tmp_path: Path
) -> None:
    fleet.setup("fit")
    torch.manual_seed(1)
    learner = kind(MLP(32, 4, hidden=(16,)))
    at = process(fleet.site("plant1"), learner, tmp_path / "site")
    memory = SiteMemory.below(tmp_path / "serial")
    stamp = 0
    for round_ in range(3):
        for verb in ("rehearse", "fit", "validate"):
            stamp += 1
            asked = asking(learner, verb, round_, stamp)
            (expected,) = SerialExecutor().run(learner, asked.work, {"plant1": fleet.sites["plant1"]}, memory)
            came = answered(at, asked)
            assert isinstance(expected, SiteUpdate)
            assert isinstance(came.outcome, SiteUpdate)
            assert came.classes == ("a", "b")
            assert came.preprocessing["features.bands"] == 32
            assert came.outcome.metrics == expected.metrics
            assert came.outcome.examples == expected.examples
            assert set(came.outcome.delta) == set(expected.delta)
            for name, delta in expected.delta.items():
                assert torch.equal(came.outcome.delta[name], delta)
    whats = [line["what"] for line in sent(at)[:3]]
    assert whats[0] == "that it can adapt"
    assert whats[1] == f"parameters: {len(learner.shared)} tensors, metrics: 1"
    assert whats[2].startswith("metrics: ")


@pytest.fixture
def learner(make_learner: MakeLearner) -> MAML:
    return make_learner()


@pytest.fixture
def here(fleet: SimulatedFleet) -> SiteData:
    return fleet.site("plant1")


def test_each_answer_is_logged_with_its_bytes_before_it_leaves(
    here: SiteData, learner: MAML, tmp_path: Path
) -> None:
    at = process(here, learner, tmp_path)
    messages = [request(asking(learner, "fit", 3, 1)), request(asking(learner, "fit", 3, 1)), b"nonsense"]
    sizes = [len(at.answer(message)) for message in messages]
    lines = sent(at)
    assert [line["bytes"] for line in lines] == sizes
    assert [(line["run"], line["round"], line["verb"]) for line in lines] == [("r1", 3, "fit")] * 2 + [(None,) * 3]
    assert lines[1]["what"] == f"failure: {COPY}"
    assert lines[2]["what"].startswith("refusal: it cannot read the message")
    assert at.counts == {"updates": 1, "failures": 2, "bytes": sum(sizes)}
    assert at.last is not None
    assert (at.last.round, at.last.failure) == (3, COPY)


def test_nothing_leaves_that_cannot_be_logged(
    here: SiteData, learner: MAML, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, lines: list[bytes]) -> None:
        raise OSError(28, "No space left on device", str(path))

    at = process(here, learner, tmp_path)
    monkeypatch.setattr(site_process, "add_lines", full)
    came = answered(at, asking(learner))
    assert came.outcome == SiteFailure("plant1", 0, DISK)
    assert str(tmp_path).encode() not in at.answer(request(asking(learner, stamp=2)))
    assert b"it cannot read the message" in at.answer(b"")
    monkeypatch.undo()
    assert isinstance(answered(at, asking(learner, stamp=3)).outcome, SiteUpdate)


def test_an_old_stamp_is_refused_even_after_a_restart(here: SiteData, learner: MAML, tmp_path: Path) -> None:
    first = process(here, learner, tmp_path)
    assert isinstance(answered(first, asking(learner, stamp=10)).outcome, SiteUpdate)
    again = process(here, learner, tmp_path)
    for stamp in (10, 9, 0):
        came = answered(again, asking(learner, "validate", stamp=stamp))
        assert isinstance(came.outcome, SiteFailure)
        assert (came.outcome.reason, came.outcome.permanent, came.newest) == (COPY, False, 10)
    other = answered(again, asking(learner, "validate", stamp=0, run="r2"))  # a run has stamps of its own
    assert isinstance(other.outcome, SiteUpdate)
    assert other.newest is None
    assert isinstance(answered(again, asking(learner, "validate", stamp=11)).outcome, SiteUpdate)


def test_runs_that_are_forgotten_take_no_old_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.executors.stamps.MOST_RUNS", 3)
    stamps = Stamps(tmp_path / "stamps.json")
    assert all(stamps.accept(f"r{n}", 10 + n) for n in range(5))
    again = Stamps(tmp_path / "stamps.json")
    assert [again.newest(f"r{n}") for n in range(5)] == [11, 11, 12, 13, 14]  # r0 and r1 are forgotten
    assert not again.accept("r0", 11)
    assert again.accept("r0", 12)  # in place of r2, as nothing is older
    again.count("r0")
    assert Stamps(tmp_path / "stamps.json").trained("r0") == 1
    assert Stamps(tmp_path / "stamps.json").newest("r2") == 12


def test_a_damaged_file_of_the_site_is_told_in_a_sentence(here: SiteData, learner: MAML, tmp_path: Path) -> None:
    for name in ("stamps.json", "aliases.json"):
        (tmp_path / name).write_text("[1")
        with pytest.raises(UserError, match=f"{name}: expected the .* restore it from a backup, or remove it"):
            process(here, learner, tmp_path)
        (tmp_path / name).unlink()


def test_another_learner_other_parameters_and_what_no_consent_covers_are_refused(
    here: SiteData, learner: MAML, make_learner: MakeLearner, tmp_path: Path
) -> None:
    at = process(here, learner, tmp_path, Consent(verbs=("fit",), rounds=3, machines="names"))
    torch.manual_seed(0)
    other = MAML(MLP(32, 4, hidden=(16,)), inner_loop=InnerLoop(lr=0.3, steps=2))
    assert "learner.adaptation.lr is 0.2 here and 0.3 at the server" in reason(at, asking(other, stamp=1))
    asked = asking(learner, stamp=2)
    for params in (
        {},
        {**asked.work.params, "more": torch.zeros(1)},
        {name: p[:1] for name, p in asked.work.params.items()},
        {name: p.double() for name, p in asked.work.params.items()},
    ):
        asked = replace(asked, work=replace(asked.work, params=params), stamp=asked.stamp + 1)
        assert "parameters that its learner shares, got others" in reason(at, asked)
    assert "consent.verbs" in reason(at, asking(learner, "validate", stamp=20))
    assert "consent.rounds" in reason(at, asking(learner, round_=3, stamp=21))
    for turn in range(6):
        assert isinstance(answered(at, asking(learner, round_=2, stamp=30 + turn)).outcome, SiteUpdate)
    assert "has trained 6 times" in reason(at, asking(learner, round_=2, stamp=40))
    assert "has trained 6 times" in reason(
        process(here, learner, tmp_path, at.consent), asking(learner, round_=2, stamp=41)
    )


class Private(MAML):
    """A learner of the plant's own, with a setting that names a file."""

    def __init__(self, net: MLP, geheim: str = FILE) -> None:
        super().__init__(net)
        self.geheim = geheim


@pytest.mark.parametrize(
    "consent", [Consent(), Consent(metrics="mean"), Consent(metrics="mean", machines="names")]
)
def test_of_a_learner_that_differs_no_value_leaves_where_names_are_kept(
    consent: Consent, here: SiteData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = Private(MLP(32, 4, hidden=(16,)))
    at = process(here, learner, tmp_path, consent)
    caplog.set_level("WARNING")
    ours = agreement(learner)
    probes: list[tuple[dict[str, str], str]] = [
        ({**ours, "learner": "x"}, "it differs in learner; its own log"),
        (
            {**ours, "learner.geheim": "?"},
            "it differs in learner.geheim; ",
        ),  # a name that the server has sent itself
        (
            {name: value for name, value in ours.items() if name != "learner.geheim"},
            "settings that the server's lacks",
        ),
        ({}, "settings that the server's lacks"),
        ({f"probe {n}": "?" for n in range(30)}, "probe 8, probe 9 and 20 more; its own log says how"),
    ]
    for stamp, (theirs, said) in enumerate(probes, 1):
        asked = replace(asking(learner, stamp=stamp), learner=theirs)
        message = at.answer(request(asked))
        head = unpack(message)[0]
        assert said in head["reason"]
        assert head["permanent"]
        assert FILE.encode() not in message
        assert b"Private" not in message
        assert ("geheim" in head["reason"]) == (theirs.get("learner.geheim") == "?")
        if stamp == 2:
            assert f"learner.geheim is {FILE!r} here and ? at the server" in caplog.text
    assert FILE not in (tmp_path / "sent.jsonl").read_text()
    open_site = process(here, learner, tmp_path / "open")
    assert FILE in reason(open_site, replace(asking(learner), learner={**ours, "learner.geheim": "?"}))


def test_each_run_has_a_memory_of_its_own(here: SiteData, tmp_path: Path) -> None:
    torch.manual_seed(1)
    learner = Ditto(MLP(32, 4, hidden=(16,)))
    at = process(here, learner, tmp_path)
    for run in ("r1", "r2"):
        assert isinstance(answered(at, asking(learner, run=run)).outcome, SiteUpdate)
        assert (tmp_path / "state" / run / "personal" / "plant1" / "0.pt").is_file()
    lost = replace(asking(learner, round_=1, stamp=2, run="r3"), stateful=True)
    assert "its personal state is not in" in reason(at, lost)
    kept = process(here, learner, tmp_path, Consent())
    assert reason(kept, replace(lost, stamp=3)) == REFUSED


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_message_says_it_is_answered(data: st.DataObject, site_of_nothing: SiteProcess) -> None:
    learner = site_of_nothing.learner
    message = bytearray(request(asking(learner, stamp=data.draw(st.integers(0, 2**63)))))
    head, params = unpack(bytes(message))
    field = data.draw(st.sampled_from(sorted(head)))
    anything = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
    head[field] = data.draw(anything)
    broken = data.draw(st.sampled_from([pack(head, params), bytes(message[: data.draw(st.integers(0, 200))])]))
    came = unpack(site_of_nothing.answer(broken))[0]
    assert came["kind"] in ("failure", "refusal")


class Empty(LightningDataModule):
    """A site whose data cannot be had."""

    def train_dataloader(self) -> Any:
        raise NotYetError(f"{NAMES[0]} has no window of {LABEL} in {FILE}")

    val_dataloader = test_dataloader = train_dataloader


@pytest.fixture
def site_of_nothing(make_learner: MakeLearner, tmp_path: Path) -> SiteProcess:
    return process(Empty(), make_learner(), tmp_path, Consent())


def test_a_site_that_grows_says_not_yet_without_saying_what(site_of_nothing: SiteProcess) -> None:
    outcome = answered(site_of_nothing, asking(site_of_nothing.learner)).outcome
    assert isinstance(outcome, SiteFailure)
    assert (outcome.reason, outcome.not_yet, outcome.permanent) == (NOT_YET, True, False)
    assert site_of_nothing.stamps.trained("r1") == 0


# What is planted: names of machines, a label, a path and a value, in data that fail in every way ---------------


class Planted(SiteData):
    """A site whose machines' names and values are known by heart, and which can fail at any moment."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)

        def values(label: int) -> Any:
            noise = torch.randn(6144, generator=generator)
            noise[::7] += label
            noise[100] = FEATURE
            return noise.numpy()

        recordings = [
            Recording(machine, "c", label, 1000.0, values(label)) for machine in NAMES for label in (0, 1, 2, 3)
        ]
        preprocessing = Preprocessing(Windowing(length=512, hop=512), LogBandPowers(bands=32), (NAMES[0],))
        super().__init__("plant1", recordings, preprocessing, Episodes(shots=1, queries=1, tasks=2, repeats=1))
        self.fault: Exception | None = None
        self.moment = ""
        self.nan = False

    def _meet(self, moment: str) -> None:
        if self.fault is not None and self.moment == moment:
            raise self.fault

    def setup(self, stage: str) -> None:
        self._meet("setup")

    def teardown(self, stage: str) -> None:
        self._meet("teardown")

    @property
    def num_examples(self) -> int:
        self._meet("num_examples")
        return super().num_examples

    def _spoiled(self, episodes: Iterable[Episode]) -> Iterator[Episode]:
        for episode in episodes:
            self._meet("episode")
            yield (
                replace(episode, query=episode.query.map(lambda t: t * torch.nan if t.is_floating_point() else t))
                if (self.nan)
                else episode
            )

    def train_dataloader(self) -> Any:
        self._meet("dataloader")
        return DataLoader(list(self._spoiled(super().train_dataloader())), batch_size=None)

    def val_dataloader(self) -> Any:
        self._meet("dataloader")
        return DataLoader(list(self._spoiled(super().val_dataloader())), batch_size=None)

    test_dataloader = val_dataloader


def _spoiled(values: torch.Tensor) -> torch.Tensor:
    return values * torch.nan if values.is_floating_point() else values


class Telling(MAML):
    """A learner of one's own that logs names and values of the data."""

    def _log_evaluation(self, stage: str, episode: Episode) -> None:
        super()._log_evaluation(stage, episode)
        for name in (f"{stage}/of {episode.machines[0]}", f"{stage}/{LABEL}_after", f"{stage}/window", LABEL):
            self.log(name, FEATURE, batch_size=1)

    def training_step(self, batch: Episode, batch_idx: int) -> Any:
        self.log(f"train/{LABEL}", FEATURE, batch_size=1)
        return super().training_step(batch, batch_idx)


ERRORS = [UserError, NotYetError, ValueError, KeyError, OSError, RuntimeError, type("geheim", (Exception,), {})]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def telling() -> Telling:
    torch.manual_seed(1)
    return Telling(MLP(32, 4, hidden=(8,)), inner_loop=InnerLoop(lr=0.1, steps=1))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_planted_values_never_leave_whatever_goes_wrong(
    data: st.DataObject, planted: Planted, telling: Telling, tmp_path: Path
) -> None:
    consent = data.draw(
        st.sampled_from([Consent(), Consent(metrics="mean"), Consent(metrics="mean", machines="names")])
    )
    kind = data.draw(st.sampled_from([None, *ERRORS]))
    planted.fault = None if kind is None else kind(f"{NAMES}: {FEATURE} is no {LABEL}, in {FILE}")
    planted.moment = data.draw(st.sampled_from(["setup", "teardown", "num_examples", "episode", "dataloader"]))
    planted.nan = data.draw(st.booleans())
    verb = data.draw(st.sampled_from(["rehearse", "fit", "validate", "test"]))
    at = process(planted, telling, tmp_path, consent)
    newest = at.stamps.newest("r1")
    message = at.answer(request(asking(telling, verb, stamp=newest + 1)))
    for secret in SECRETS:
        assert secret not in message
    # A number leaves as eight bytes.
    encoder = msgspec.msgpack.Encoder()
    assert encoder.encode(FEATURE) not in message
    assert FEATURE not in unpack(message)[0].get("metrics", {}).values()
    if kind is None and not planted.nan:
        assert unpack(message)[0]["kind"] == "update", at.last


def test_aliases_stay_over_restarts_and_new_machines_get_the_next_number(
    learner: MAML, tmp_path: Path, fleet: SimulatedFleet
) -> None:
    site = fleet.site("plant1")
    everything = site.machines
    at = process(site, learner, tmp_path, Consent())

    def after(at: SiteProcess, stamp: int) -> dict[str, float]:
        outcome = answered(at, asking(learner, "validate", stamp=stamp)).outcome
        assert isinstance(outcome, SiteUpdate)
        prefix = "val/accuracy_after/"
        return {n.removeprefix(prefix): v for n, v in outcome.metrics.items() if n.startswith(prefix)}

    site.machines = everything[1:]  # type: ignore[misc]
    assert set(after(at, 1)) == {"machine-1"}
    assert json.loads((tmp_path / "aliases.json").read_text()) == {everything[1].name: "machine-1"}
    site.machines = everything  # type: ignore[misc]
    again = process(site, learner, tmp_path, Consent())
    by_alias = after(again, 2)
    assert set(by_alias) == {"machine-1", "machine-2"}
    named = after(process(site, learner, tmp_path, OPEN), 3)
    assert named == {everything[0].name: by_alias["machine-2"], everything[1].name: by_alias["machine-1"]}
