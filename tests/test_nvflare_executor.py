"""The executor asks sites over a real socket: answers are checked, the silent benched, lost servers waited for.

A fake hub answers in this process, from what the real ones would say.
"""

from __future__ import annotations

import itertools
import logging
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fml_lightning import MAML, MLP, Learner, NVFlareExecutor, SiteFailure, SiteMemory, SiteUpdate, UserError, Work
from fml_lightning.datamodules import RemoteSite
from fml_lightning.executors.agreement import agreement
from fml_lightning.executors.messages import Asked, answer, refusal, work_of
from fml_lightning.executors.nvflare import executor as module
from fml_lightning.executors.nvflare.envelope import (
    Answer,
    Ask,
    Connected,
    Failure,
    Forget,
    Member,
    ToHub,
    Who,
    decode,
    encode,
)
from fml_lightning.executors.nvflare.local_link import SERVER_SOCKET, Link, Listener, listen
from fml_lightning.executors.wire import pack, unpack

KIND: dict[str, Any] = {"preprocessing": {"sample_rate": 100.0}, "classes": ("sound", "worn")}
Site = Callable[[Asked, Ask], bytes | str | None]
"""How a site answers: with a message, or a reason of its host, or not at all."""


def update(asked: Asked, ask: Ask) -> bytes:
    """What a site answers that does what it is asked."""
    delta = {name: torch.ones_like(p) for name, p in asked.work.params.items()}
    return answer(asked, SiteUpdate("", asked.work.round, delta, 4), **KIND)


@dataclass
class FakeHub:
    """ServerHub, as the executor sees it."""

    folder: Path
    sites: dict[str, Site] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    """How many seconds ago each site was last heard of; 0, unless it is in here."""
    refused: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, Asked, Ask]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    listener: Listener | None = None

    def start(self) -> None:
        self.listener = listen(self.folder, SERVER_SOCKET)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener: Listener) -> None:
        try:
            while True:
                self.links.append(link := listener.accept())
                threading.Thread(target=self.serve, args=(link,), daemon=True).start()
        except OSError:
            pass

    def serve(self, link: Link) -> None:
        try:
            while True:
                self.say(link, decode(link.receive(), ToHub))
        except OSError:
            pass

    def say(self, link: Link, said: ToHub) -> None:
        match said:
            case Who():
                clients = [Member(name, self.seen.get(name, 0.0)) for name in self.sites]
                link.send(encode(Connected(clients=clients, refused=self.refused)))
            case Ask():
                for name in said.clients:
                    self.asked.append((name, asked := work_of(*unpack(said.data)), said))
                    match self.sites[name](asked, said):
                        case bytes(data):
                            link.send(encode(Answer(number=said.number, client=name, data=data)))
                        case str(reason):
                            link.send(
                                encode(Failure(number=said.number, client=name, reason=reason, silent=False))
                            )
                        case None:
                            reason = "it did not answer"
                            link.send(encode(Failure(number=said.number, client=name, reason=reason, silent=True)))
            case Forget():
                self.forgotten.append(said.number)

    def stop(self) -> None:
        if self.listener is not None:
            self.listener.close()
        for link in self.links:
            link.close()
        self.links.clear()

    def names(self) -> list[str]:
        """Who was asked, in order, since the last time."""
        asked = [name for name, _, _ in self.asked]
        self.asked.clear()
        return asked


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    made = FakeHub(tmp_path / "server", {"plant1": update, "plant2": update})
    made.start()
    yield made
    made.stop()


@pytest.fixture
def executor(hub: FakeHub) -> Iterator[NVFlareExecutor]:
    made = NVFlareExecutor(str(hub.folder), deadline=30.0, max_wait=20.0)
    yield made
    made.close()


LEARNER = MAML(MLP(4, 2, hidden=()))


def work(round_: int = 0, learner: Learner = LEARNER, run: str = "run1") -> Work:
    return Work("fit", round_, {name: p.detach() for name, p in learner.shared.items()}, 7, 3, run)


def run(
    executor: NVFlareExecutor,
    round_: int = 0,
    *,
    classes: tuple[str, ...] = (),
    expected: frozenset[str] = frozenset(),
    sites: tuple[str, ...] = ("plant1", "plant2"),
    run_id: str = "run1",
) -> dict[str, SiteUpdate | SiteFailure]:
    memory = SiteMemory(Path("nowhere"), expected, frozenset({0}))
    data = {name: RemoteSite(name, classes=classes) for name in sites}
    outcomes = list(executor.run(LEARNER, work(round_, run=run_id), data, memory))
    assert len({outcome.site for outcome in outcomes}) == len(outcomes)
    return {outcome.site: outcome for outcome in outcomes}


def reason(outcome: SiteUpdate | SiteFailure) -> str:
    assert isinstance(outcome, SiteFailure), outcome
    return outcome.reason


def is_update(outcome: SiteUpdate | SiteFailure) -> bool:
    return isinstance(outcome, SiteUpdate)


def test_each_site_is_asked_once_and_answers_under_its_own_name(hub: FakeHub, executor: NVFlareExecutor) -> None:
    outcomes = run(executor, 3, expected=frozenset({"plant2"}))
    assert all(map(is_update, outcomes.values()))
    (one,) = [asked for name, asked, _ in hub.asked if name == "plant1"]
    (two,) = [asked for name, asked, _ in hub.asked if name == "plant2"]
    assert replace(one.work, params={}) == Work("fit", 3, {}, 7, 3, "run1")
    assert one.learner == agreement(LEARNER)
    assert (one.stateful, two.stateful) == (False, True)
    assert one.revisitable == {0}
    assert 0 < one.deadline <= 30.0
    assert outcomes["plant1"].delta.keys() == LEARNER.shared.keys()  # type: ignore[union-attr]


def test_the_learner_is_described_once_in_a_run(
    hub: FakeHub, executor: NVFlareExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[Learner] = []

    def describe(learner: Learner) -> dict[str, str]:
        described.append(learner)
        return agreement(learner)

    monkeypatch.setattr(module, "agreement", describe)
    for round_ in range(3):
        run(executor, round_)
    assert described == [LEARNER]
    run(executor, run_id="run2")
    assert described == [LEARNER, LEARNER]
    other = MAML(MLP(4, 2, hidden=(3,)))
    data = {"plant1": RemoteSite("plant1")}
    list(executor.run(other, work(1, other, "run2"), data, SiteMemory(Path("nowhere"))))
    assert described == [LEARNER, LEARNER, other]
    assert hub.asked[-1][1].learner == agreement(other)


def test_stamps_grow_even_if_the_clock_goes_back(
    hub: FakeHub, executor: NVFlareExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([1000, 500, 500, 2000])
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=time.sleep, time_ns=lambda: next(ticks))
    monkeypatch.setattr(module, "time", clock)
    for round_ in range(4):
        run(executor, round_, sites=("plant1",))
    assert [asked.stamp for _, asked, _ in hub.asked] == [1000, 1001, 1002, 2000]


def test_a_site_that_has_seen_newer_stamps_is_asked_above_them_at_once(
    hub: FakeHub, executor: NVFlareExecutor
) -> None:
    """As after a move of the server to a host whose clock is behind."""
    ahead = time.time_ns() + 10**18

    def outrun(asked: Asked, ask: Ask) -> bytes:
        if asked.stamp > ahead:
            return update(asked, ask)
        return answer(asked, SiteFailure("", asked.work.round, "a copy", permanent=True), **KIND, newest=ahead)

    hub.sites["plant1"] = outrun
    assert all(map(is_update, run(executor).values()))
    assert [name for name, _, _ in hub.asked].count("plant1") == 2
    hub.names()
    assert all(map(is_update, run(executor, 1).values()))
    assert sorted(asked.stamp > ahead for _, asked, _ in hub.asked) == [False, True]  # plant2's are its own
    assert hub.names() in (["plant1", "plant2"], ["plant2", "plant1"])


@pytest.mark.parametrize("newest", [2**62, 2**64 - 1, 5])
def test_a_stamp_that_cannot_be_is_not_believed(newest: int, hub: FakeHub, executor: NVFlareExecutor) -> None:
    def outrun(asked: Asked, ask: Ask) -> bytes:
        return answer(asked, SiteFailure("", asked.work.round, "a copy", permanent=True), **KIND, newest=newest)

    hub.sites["plant1"] = outrun
    outcomes = run(executor)
    assert reason(outcomes["plant1"]) == "a copy"
    assert is_update(outcomes["plant2"])
    assert hub.names().count("plant1") == 1


def test_a_site_that_always_outruns_fails(hub: FakeHub, executor: NVFlareExecutor) -> None:
    def outrun(asked: Asked, ask: Ask) -> bytes:
        failure = SiteFailure("", asked.work.round, "a copy", permanent=True)
        return answer(asked, failure, **KIND, newest=asked.stamp + 10)

    hub.sites["plant1"] = outrun
    assert reason(run(executor)["plant1"]) == "a copy"
    assert hub.names().count("plant1") == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda asked: replace(asked, stamp=asked.stamp - 1),
        lambda asked: replace(asked, work=replace(asked.work, run="run0")),
        lambda asked: replace(asked, work=replace(asked.work, verb="validate")),
        lambda asked: replace(asked, work=replace(asked.work, round=asked.work.round + 1)),
    ],
    ids=["stamp", "run", "verb", "round"],
)
def test_an_answer_to_something_else_is_refused(
    wrong: Callable[[Asked], Asked], hub: FakeHub, executor: NVFlareExecutor, request: pytest.FixtureRequest
) -> None:
    hub.sites["plant1"] = lambda asked, ask: update(wrong(asked), ask)
    outcomes = run(executor)
    name = request.node.callspec.id
    assert reason(outcomes["plant1"]) == (
        f"its answer cannot be read: expected the {name} that it was asked with, got another"
    )
    assert is_update(outcomes["plant2"])


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff" * 100,
        pack({"kind": "update"}),
        pack({"kind": "failure", "version": 1, "reason": ["x"]}),
        refusal("x" * 5000),
    ],
)
def test_garbage_costs_a_site_its_turn(garbage: bytes, hub: FakeHub, executor: NVFlareExecutor) -> None:
    hub.sites["plant1"] = lambda asked, ask: garbage
    outcomes = run(executor)
    assert len(reason(outcomes["plant1"])) <= 5000
    assert is_update(outcomes["plant2"])


def test_what_is_too_long_is_bounded_by_the_parameters(hub: FakeHub, executor: NVFlareExecutor) -> None:
    run(executor)
    assert hub.asked[0][2].most_bytes == module.TOLD + 2 * 4 * sum(p.numel() for p in LEARNER.shared.values())


def test_what_a_host_says_is_the_reason(hub: FakeHub, executor: NVFlareExecutor) -> None:
    hub.sites["plant1"] = lambda asked, ask: "its process is not running"
    for round_ in range(3):  # and it is asked every time: it is slow or broken, not gone
        assert reason(run(executor, round_)["plant1"]) == "its process is not running"
    assert hub.names().count("plant1") == 3


def test_a_site_that_is_not_connected_fails_at_once_and_joins_later(
    hub: FakeHub, executor: NVFlareExecutor
) -> None:
    del hub.sites["plant2"]
    failure = run(executor)["plant2"]
    assert failure == SiteFailure("plant2", 0, "it is not connected", not_yet=True)
    hub.sites["plant2"] = update
    assert is_update(run(executor, 1)["plant2"])


def test_a_site_that_the_server_lets_take_no_part_fails_with_its_reason(
    hub: FakeHub, executor: NVFlareExecutor
) -> None:
    del hub.sites["plant2"]
    hub.refused = {"plant2": "plant2 is in use twice"}
    assert run(executor)["plant2"] == SiteFailure("plant2", 0, "plant2 is in use twice", not_yet=True)
    hub.sites["plant2"], hub.refused = update, {}
    assert is_update(run(executor, 1)["plant2"])


def test_a_silent_site_is_benched_for_longer_each_time_until_it_is_heard_of(
    hub: FakeHub, executor: NVFlareExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    heard = [999.0]
    """When NVFlare last had a heartbeat of plant2."""
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep, time_ns=time.time_ns)
    monkeypatch.setattr(module, "time", clock)
    caplog.set_level(logging.WARNING)
    hub.sites["plant2"] = lambda asked, ask: None

    def asked_after(seconds: float) -> bool:
        now[0] += seconds
        hub.seen["plant2"] = now[0] - heard[0]
        hub.names()
        failed = run(executor)["plant2"]
        is_asked = "plant2" in hub.names()
        assert is_asked or (isinstance(failed, SiteFailure) and failed.not_yet)
        return is_asked

    assert asked_after(0.0)
    for seconds in (30.0, 60.0, 120.0, 240.0, 300.0, 300.0):
        assert not asked_after(seconds - 1)
        assert asked_after(1.0)
    heard[0] = now[0] + 1.0
    assert asked_after(2.0)  # it was heard of, and is silent still
    assert not asked_after(1.0)
    hub.sites["plant2"] = update
    heard[0] = now[0] + 1.0
    assert asked_after(2.0)
    heard[0] = 0.0  # once it has answered, nobody counts its heartbeats
    assert asked_after(1.0)
    assert [record.message for record in caplog.records] == [
        "plant2 does not answer: it is not asked for 30 s, or until it is heard of"
    ]


def test_an_answer_that_never_comes_ends_with_the_deadline(hub: FakeHub) -> None:
    """As where ServerHub itself hangs."""
    executor = NVFlareExecutor(str(hub.folder), deadline=0.2, max_wait=20.0)
    released = threading.Event()

    def hang(asked: Asked, ask: Ask) -> None:
        released.wait(60)

    hub.sites["plant2"] = hang
    try:
        outcomes = run(executor, sites=("plant2",))
        assert reason(outcomes["plant2"]) == "it did not answer within 0 s"
    finally:
        released.set()
        executor.close()


def test_late_answers_of_an_earlier_round_are_passed_over(hub: FakeHub, executor: NVFlareExecutor) -> None:
    def twice(asked: Asked, ask: Ask) -> bytes:
        data = update(asked, ask)
        for number in (ask.number - 1, ask.number):
            hub.links[-1].send(encode(Answer(number=number, client="plant1", data=data)))
        return data

    hub.sites["plant1"] = twice
    for round_ in range(3):
        outcomes = run(executor, round_)
        assert all(map(is_update, outcomes.values()))
        assert {outcome.round for outcome in outcomes.values()} == {round_}


def test_a_late_answer_of_many_parameters_does_not_break_the_link(
    hub: FakeHub, executor: NVFlareExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is read when the executor asks who is connected."""
    run(executor)
    late = Answer(number=1, client="plant1", data=bytes(module.TOLD + 1))
    sending = threading.Thread(target=hub.links[-1].send, args=(encode(late),))
    sending.start()
    wait_until_readable(executor)
    assert all(map(is_update, run(executor, 1).values()))
    sending.join()
    assert len(hub.links) == 1
    assert "does not answer" not in caplog.text


def wait_until_readable(executor: NVFlareExecutor) -> None:
    """Until a message has begun to come."""
    assert executor._link is not None
    assert select.select([executor._link], [], [], 60.0)[0]


def test_a_round_that_has_enough_lets_go_of_the_rest(hub: FakeHub, executor: NVFlareExecutor) -> None:
    run(executor)  # in the first round all are heard, to find out what most have
    hub.names()
    data = {name: RemoteSite(name) for name in ("plant1", "plant2")}
    outcomes = executor.run(LEARNER, work(1), data, SiteMemory(Path("nowhere")))
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert is_update(run(executor, 2)["plant2"])  # whatever came meanwhile
    assert hub.forgotten == [hub.asked[0][2].number]


def test_a_server_that_is_lost_and_comes_back_is_told_once_each(
    hub: FakeHub, executor: NVFlareExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    run(executor)

    def die(asked: Asked, ask: Ask) -> None:
        hub.stop()

    hub.sites = {"plant1": die}
    outcomes = run(executor, sites=("plant1",))
    assert reason(outcomes["plant1"]) == "the federation's server was lost while the site was at work"
    hub.sites = {}
    restarted = threading.Timer(0.5, hub.start)
    restarted.start()
    joined = threading.Timer(1.5, lambda: hub.sites.update(plant1=update, plant2=update))
    joined.start()
    assert is_update(run(executor, 1)["plant1"])  # the first site that registers is waited for, too
    assert [record.message.split(" in ")[0] for record in caplog.records] == [
        "the federation's server does not answer",
        "the federation's server is back",
    ]


def test_no_server_at_all_is_the_user_s_to_mend(tmp_path: Path) -> None:
    executor = NVFlareExecutor(str(tmp_path / "server"), max_wait=0.5)
    with pytest.raises(UserError, match=r"no server answers in .* within 0 s; start it with fml server --kit KIT"):
        run(executor)


def test_no_site_at_all_is_no_exception(hub: FakeHub) -> None:
    hub.sites = {}
    executor = NVFlareExecutor(str(hub.folder), max_wait=0.5)
    assert reason(run(executor)["plant1"]) == "it is not connected"
    executor.close()


def test_sites_whose_windows_are_others_are_refused_with_both_names(
    hub: FakeHub, executor: NVFlareExecutor
) -> None:
    def other(asked: Asked, ask: Ask) -> bytes:
        delta = {name: torch.ones_like(p) for name, p in asked.work.params.items()}
        kind = {"preprocessing": {"sample_rate": 200.0, "windowing": None}, "classes": KIND["classes"]}
        return answer(asked, SiteUpdate("", asked.work.round, delta, 4), **kind)

    assert is_update(run(executor, sites=("plant1",))["plant1"])
    hub.sites["plant2"] = other
    outcomes = run(executor, 1)
    assert outcomes["plant2"] == SiteFailure(
        "plant2",
        1,
        "plant2: sample_rate is 200.0 there and 100.0 at plant1, and must be the same; mend the data of site.yaml",
        permanent=True,
    )
    assert is_update(outcomes["plant1"])
    assert is_update(
        run(executor, 2, sites=("plant2",), run_id="run2")["plant2"]
    )  # another run, another first site


def made_at(sample_rate: float) -> Site:
    """A site whose windows have another sample rate."""

    def site(asked: Asked, ask: Ask) -> bytes:
        delta = {name: torch.ones_like(p) for name, p in asked.work.params.items()}
        kind = {"preprocessing": {"sample_rate": sample_rate}, "classes": KIND["classes"]}
        return answer(asked, SiteUpdate("", asked.work.round, delta, 4), **kind)

    return site


@pytest.mark.parametrize("order", list(itertools.permutations(["plant1", "plant2", "plant3"])))
def test_what_most_sites_have_holds_whoever_answers_first(
    order: tuple[str, ...], hub: FakeHub, executor: NVFlareExecutor
) -> None:
    """Also where the odd one has rehearsed alone before; and it stays so when others come."""
    hub.sites = {"plant1": made_at(200.0), "plant2": update, "plant3": update}
    rehearsal = replace(work(), verb="rehearse")
    (alone,) = executor.run(LEARNER, rehearsal, {"plant1": RemoteSite("plant1")}, SiteMemory(Path("nowhere")))
    assert is_update(alone)
    outcomes = run(executor, sites=order)
    assert is_update(outcomes["plant2"])
    assert is_update(outcomes["plant3"])
    assert "sample_rate is 200.0 there and 100.0 at plant2" in reason(outcomes["plant1"])
    hub.sites = {name: made_at(200.0) for name in ("plant4", "plant5", "plant6")} | {"plant2": update}
    later = run(executor, 1, sites=("plant4", "plant5", "plant6", "plant2"))
    assert [name for name, outcome in later.items() if is_update(outcome)] == ["plant2"]


@pytest.mark.parametrize("order", [("plant1", "plant2"), ("plant2", "plant1")])
def test_of_two_sites_that_differ_the_first_by_name_holds(
    order: tuple[str, ...], hub: FakeHub, executor: NVFlareExecutor
) -> None:
    hub.sites = {"plant1": made_at(200.0), "plant2": update}
    outcomes = run(executor, sites=order)
    assert is_update(outcomes["plant1"])
    assert "sample_rate is 100.0 there and 200.0 at plant1" in reason(outcomes["plant2"])


def test_sites_that_come_within_the_first_round_count_too(hub: FakeHub, executor: NVFlareExecutor) -> None:
    hub.sites = {"plant1": made_at(200.0)}
    run(executor, sites=("plant1",))
    hub.sites |= {"plant2": update, "plant3": update}
    assert all(map(is_update, run(executor, sites=("plant2", "plant3")).values()))
    assert "sample_rate is 200.0 there and 100.0 at plant2" in reason(run(executor, 1)["plant1"])


def test_classes_must_be_those_of_the_fleet(hub: FakeHub, executor: NVFlareExecutor) -> None:
    assert "classes is ['sound', 'worn'] there and ['worn', 'sound'] at the server's RemoteFleet" in reason(
        run(executor, classes=("worn", "sound"))["plant1"]
    )
    assert is_update(run(executor, 1, classes=("sound", "worn"))["plant1"])


@pytest.mark.parametrize("options", [{"deadline": 0.0}, {"deadline": float("nan")}, {"max_wait": -1.0}])
def test_limits_that_are_none_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected a deadline of more than 0 s"):
        NVFlareExecutor("server", **options)


def test_whoever_watches_the_server_learns_run_and_round(hub: FakeHub, executor: NVFlareExecutor) -> None:
    run(executor, 5)
    assert {(ask.run, ask.round) for _, _, ask in hub.asked} == {("run1", 5)}
