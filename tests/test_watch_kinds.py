"""Every kind of personal model in a watch: it says what the model, its card and its export say."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from watched import BEGIN, LENGTH, RATE, SITE, card, in_time, messages, model, record, signal

from fml_lightning import (
    MAML,
    MLP,
    Classification,
    Episode,
    Examples,
    FedAvg,
    FedBN,
    InnerLoop,
    Learner,
    NormalDistance,
    PersonalModel,
    Prototypical,
    Reconstruction,
    Regression,
    RemainingUsefulLife,
    UserError,
    personalize,
)
from fml_lightning.__main__ import run_command
from fml_lightning.commands.learning import run as learn
from fml_lightning.commands.personal_models import write_models
from fml_lightning.connectors.codecs.json import JSONScalar
from fml_lightning.connectors.decoding.topics import Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.export import export
from fml_lightning.export.graph import Graph
from fml_lightning.export.onnx_file import OpenedONNX
from fml_lightning.learners import FaultLineRule
from fml_lightning.live.alarm import AlarmRule
from fml_lightning.live.drift import DriftRule
from fml_lightning.live.journal import Journal, recovered
from fml_lightning.live.page.messages import contents
from fml_lightning.live.rules import Rules
from fml_lightning.live.scoring import RegistryModels
from fml_lightning.live.table import rows
from fml_lightning.live.watcher import Settings, Watcher
from fml_lightning.objectives import Objective
from fml_lightning.personal.card import Checkpoint
from fml_lightning.personal.personalization import Personalization
from fml_lightning.personal.registry import Registry
from fml_lightning.preprocessing import FaultLines, LogBandPowers, Preprocessing, RawWindows, Windowing
from fml_lightning.stream_timing import StreamTiming

LOOP = InnerLoop(lr=0.05, steps=2)
CLASSES = ("normal", "outer")
BEARING = {"speed": 10.0, "bpfo": 3.58, "bpfi": 5.41, "bsf": 2.36, "ftf": 0.4}
HALF, SHOTS = 16, 6
"""Windows of each state, and how many of them are support."""
CUT = Windowing(length=LENGTH, hop=LENGTH)
BANDS = Preprocessing(CUT, LogBandPowers(4), ("vibration",), RATE)
LINES = FaultLines(bands=((200.0, 400.0),))
RULES = Rules(AlarmRule(on_delay=1.0, off_delay=3.0), DriftRule(baseline=180.0))


class Own(nn.Module):
    """A network of a user's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.inner, self.outer = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.sin(self.inner(x)))


class Failing(Own):
    """A network that takes no window."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("this network fails\non every window")


def normed() -> nn.Module:
    """A network whose running statistics are somebody's."""
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, 2))
    net(torch.randn(64, 4) * 2 - 5)
    return net


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4))


@dataclass(frozen=True)
class Kind:
    """A learner, what it sees, and what is known of its machine."""

    learner: Callable[[], Learner]
    preprocessing: Preprocessing = BANDS
    told: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    normal: str = ""


KINDS = {
    "dropout": Kind(
        lambda: MAML(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2)), inner_loop=LOOP)
    ),
    "BatchNorm, batch": Kind(lambda: MAML(normed(), inner_loop=LOOP, batch_norm="batch")),
    "BatchNorm, frozen": Kind(lambda: MAML(normed(), inner_loop=LOOP, batch_norm="frozen")),
    "BatchNorm, personal": Kind(lambda: FedBN(normed(), adaptation=LOOP)),
    "prototypes": Kind(lambda: Prototypical(normed(), ways=2, batch_norm="batch")),
    "a class is normal": Kind(lambda: MAML(MLP(4, 2, (8,)), Classification(normal=0), inner_loop=LOOP)),
    "normal distance": Kind(lambda: NormalDistance(4)),
    "reconstruction": Kind(lambda: FedAvg(autoencoder(), Reconstruction(), adaptation=LOOP)),
    "remaining life": Kind(
        lambda: FedAvg(MLP(4, 1, (8,)), RemainingUsefulLife(cap=40.0), adaptation=LOOP), limit=20.0
    ),
    "a number": Kind(lambda: FedAvg(MLP(4, 1, (8,)), Regression(scale=30.0), adaptation=LOOP), limit=12.0),
    "fault line rule": Kind(
        lambda: FaultLineRule(LINES, CLASSES, length=LENGTH, sample_rate=RATE, threshold=1.0),
        Preprocessing(CUT, LINES, ("vibration",), RATE),
        BEARING,
    ),
    "a network of one's own": Kind(lambda: MAML(Own(8), inner_loop=LOOP)),
    "inputs, and another normal class": Kind(
        lambda: MAML(MLP(5, 2, (8,)), inner_loop=LOOP),
        Preprocessing(CUT, LogBandPowers(4), ("vibration",), RATE, inputs=("speed",)),
        {"speed": 25.0},
        normal="outer",
    ),
}


def values() -> np.ndarray[Any, np.dtype[np.float32]]:
    """A machine that is normal for four seconds, then sick for four."""
    seconds = HALF * LENGTH / RATE
    return np.concatenate([signal(seconds, 0.0, 1), signal(seconds, 6.0, 2)])


def personalized(kind: Kind) -> Any:
    """What personalization makes of the machine's windows."""
    seen = kind.preprocessing
    raw = values().reshape(-1, 1, LENGTH)
    told = np.tile(np.float32([kind.told[name] for name in seen.needs]), (len(raw), 1)) if seen.needs else None
    x = torch.from_numpy(seen(raw, RATE, told))[None]
    learner = kind.learner()
    state = torch.arange(2 * HALF)[None] // HALF
    y = state if not isinstance(learner.objective, Regression) else 2.0 * HALF - torch.arange(2.0 * HALF)[None]
    only_normal = isinstance(learner.objective, Reconstruction)
    support = [*range(SHOTS), *([] if only_normal else range(HALF, HALF + SHOTS))]
    query = [row for row in range(2 * HALF) if row not in support]
    centre = x[:, support].mean(1)
    x = x - centre[:, None]
    episode = Episode(
        Examples(x[:, support], y[:, support]), Examples(x[:, query], y[:, query]), ("m",), centre, SITE
    )
    result = personalize(
        learner,
        episode,
        CLASSES,
        preprocessing=seen,
        told=kind.told,
        normal=kind.normal,
        limit=kind.limit,
    )
    return result, episode


def score_all(run: Path, **settings: Any) -> Watcher:
    """A watch of the run's spool that has scored what is there."""
    models = RegistryModels(Registry(run / "machines"))
    watcher = Watcher(run / "watch", {SITE: run / "spool"}, models, Settings(RULES, **settings))
    while watcher.step(threading.Event()):
        pass
    return watcher


def journal(run: Path, machine: str = "m") -> list[dict[str, Any]]:
    """What the journal holds of a machine's windows."""
    rows = []
    for _, line in Journal(run / "watch", writes=False).log.read():
        decoded = json.loads(line)
        for part in decoded.get("machines", []) if decoded["type"] == "scored" else []:
            if part["machine"] == machine:
                names = [n for n in ("end", "score", "raw", "label", "confidence", "estimate") if part.get(n)]
                rows += [dict(zip(names, row, strict=True)) for row in zip(*(part[n] for n in names), strict=True)]
    return rows


@pytest.mark.parametrize("name", KINDS)
def test_a_watch_says_what_the_model_its_card_and_its_export_say(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind = KINDS[name]
    result, episode = personalized(kind)
    registry = Registry(tmp_path / "machines")
    version = registry.add(result.model, result.card)
    registry.rollback(SITE, "m", version.name)  # whatever its card says
    record(tmp_path / "spool", messages(values()))
    watcher = score_all(tmp_path)
    scored = journal(tmp_path)
    raw = values().reshape(-1, 1, LENGTH)
    assert len(scored) == len(raw) == 2 * HALF
    loaded = version.load()
    reading = loaded.reading(raw)
    assert reading.score.isfinite().all()
    assert reading.score.std() > 0  # it tells windows apart
    np.testing.assert_allclose([row["raw"] for row in scored], reading.score, atol=2e-6)
    assert [row["score"] for row in scored] == [row["raw"] for row in scored]  # nothing has drifted
    # The card was judged with the same outputs.
    assert episode.centre is not None
    query = episode.query.x[0]
    calibration = None if loaded.calibration is None else loaded.calibration[None]
    with torch.no_grad():
        metrics = loaded.objective.metrics(loaded.outputs(query)[None], episode.query, calibration)
    assert metrics[loaded.objective.metric].item() == pytest.approx(result.card.after, rel=1e-5)
    # An exported file says what the watch said.
    try:
        graph = Graph(loaded)
    except UserError:
        assert isinstance(kind.preprocessing.features, FaultLines)
    else:
        with torch.no_grad():
            outputs, score = graph(torch.from_numpy(raw))
        np.testing.assert_allclose(score, [row["raw"] for row in scored], atol=1e-5)
        np.testing.assert_allclose(outputs, reading.outputs, rtol=1e-5, atol=1e-5)
    # What is shown beside the score.
    view = watcher.views()[0]
    if isinstance(loaded.objective, Regression):
        estimates = [row["estimate"] for row in scored]
        np.testing.assert_allclose(estimates, reading.outputs.flatten(), rtol=1e-5, atol=1e-5)
        assert view.estimate == estimates[-1]
    elif isinstance(loaded.objective, Classification):
        fault = "normal" if kind.normal == "outer" else "outer"
        place = CLASSES.index(fault)
        assert {row["label"] for row in scored} == {fault}
        np.testing.assert_allclose([row["confidence"] for row in scored], reading.outputs[:, place], atol=2e-6)
    else:
        assert {row["label"] for row in scored} == {""}


# Models of numbers ------------------------------------------------------------------------------------------


def life(limit: float | None, machine: str = "m") -> PersonalModel:
    """A remaining life of about 50 for a signal of deviation 1, and less for a louder one."""
    net = nn.Linear(4, 1)
    with torch.no_grad():
        net.weight.fill_(-0.1)
        net.bias.fill_(0.5)
    return PersonalModel(
        net,
        RemainingUsefulLife(cap=100.0),
        torch.zeros(4),
        None,
        (),
        preprocessing=BANDS,
        site=SITE,
        machine=machine,
        limit=limit,
    )


def give(run: Path, *models: PersonalModel, unit: str | None = None) -> Registry:
    registry = Registry(run / "machines")
    for each in models:
        registry.add(each, msgspec.structs.replace(card(each.machine), unit=unit))
    return registry


def test_a_remaining_life_is_shown_and_below_the_models_own_limit_it_is_an_alarm(tmp_path: Path) -> None:
    raw = values().reshape(-1, 1, LENGTH)
    lives = life(None).predict(raw).flatten()
    healthy, sick = lives[:HALF], lives[HALF:]
    limit = round((healthy.min() + sick.max()).item() / 2, 1)
    assert healthy.min() > limit > sick.max()
    give(tmp_path, life(limit), unit="cycles")
    record(tmp_path / "spool", messages(values()))
    watcher = score_all(tmp_path, limit=1e9, normal="healthy")  # which are for models that say nothing
    view = watcher.views()[0]
    assert [row["score"] for row in journal(tmp_path)] == [0.0] * HALF + [1.0] * HALF
    assert (view.health, view.alarm, view.version) == ("FAILURE", "firing", "v1")
    assert view.estimated == f"{lives[-1].item():.4g} cycles left"
    assert contents(view, 1)["estimate"] == view.estimate == pytest.approx(lives[-1].item(), abs=1e-4)
    assert f"{lives[-1].item():.4g} cycles left; " in rows([view], (), 200, 20, BEGIN / 1e6)[1]


def test_without_a_limit_it_is_said_that_no_alarm_can_come_until_somebody_tells_one(tmp_path: Path) -> None:
    give(tmp_path, life(None))
    record(tmp_path / "spool", messages(values()))
    (view,) = score_all(tmp_path).views()
    assert view.health == "CHECK_FUNCTION"
    assert view.reason.startswith("its model estimates a number, and nobody says beyond which the machine is sick")
    assert view.estimated.endswith(" left")
    assert view.score is None
    record(tmp_path / "spool", messages(values(), begin=BEGIN + 9 * 10**6))
    (view,) = score_all(tmp_path, limit=1e9).views()
    assert (view.health, view.score) == ("FAILURE", 1.0)


def test_classes_of_which_none_is_known_as_normal_raise_nothing_and_it_is_said(tmp_path: Path) -> None:
    nameless = model()
    nameless.classes = ("fine", "outer")
    give(tmp_path, nameless)
    record(tmp_path / "spool", messages(values()))
    (view,) = score_all(tmp_path).views()
    assert view.health == "CHECK_FUNCTION"
    assert "knows the classes fine, outer, and nobody says which of them is normal" in view.reason
    record(tmp_path / "spool", messages(values(), begin=BEGIN + 9 * 10**6))
    (view,) = score_all(tmp_path, normal="fine").views()
    assert (view.health, view.reason) == ("FAILURE", "outer")


def test_a_model_keeps_its_limit_in_its_file_and_in_its_export(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    given = life(23.5)
    given.save(tmp_path / "model.safetensors")
    loaded = PersonalModel.load(tmp_path / "model.safetensors")
    assert loaded.limit == 23.5
    assert export(loaded, tmp_path / "m.onnx", "onnx").limit == 23.5
    opened = OpenedONNX((tmp_path / "m.onnx").read_bytes())
    about = json.loads(opened.metadata)
    assert (about["limit"], about["threshold"]) == (23.5, 0.5)
    raw = values().reshape(-1, 1, LENGTH)
    outputs, score = opened(raw, None)
    np.testing.assert_allclose(outputs, given.predict(raw), rtol=1e-5)
    np.testing.assert_array_equal(score, (outputs[:, 0] < 23.5).astype(np.float32))


def test_a_limit_is_for_numbers(tmp_path: Path) -> None:
    kind = KINDS["dropout"]
    with pytest.raises(UserError, match=r"limit: expected targets that are numbers, .* got Classification"):
        personalized(replace(kind, limit=3.0))
    with pytest.raises(UserError, match="limit: expected a number, got nan"):
        personalized(replace(KINDS["a number"], limit=math.nan))
    with pytest.raises(UserError, match="limit: expected a number, got nan"):
        Settings(limit=math.nan)


@pytest.mark.parametrize(
    ("current", "several", "expected"),
    [(b"v1\n", False, ""), (b"\xff\x00", False, ""), (b"v1\n", True, f"{SITE}/m ")],
)
def test_a_new_model_that_is_kept_back_beside_a_deleted_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], current: bytes, several: bool, expected: str
) -> None:
    registry = give(tmp_path, life(23.5))
    shutil.rmtree(registry.versions(SITE, "m")[0].folder)
    (registry.folder / SITE / "m" / "current").write_bytes(current)
    new = Personalization(life(None), card("m", verdict="refused", reasons=["few windows"]))
    write_models(
        lambda: [new],
        SimpleNamespace(objective=new.model.objective),  # type: ignore[arg-type]
        SimpleNamespace(target_unit="cycles"),  # type: ignore[arg-type]
        tmp_path,
        Checkpoint(path="last.ckpt", sha256="", rounds=1, run=""),
        "",
        several=several,
        only_if_better=False,
    )
    assert f"\n{expected}v2: no model watches the machine, as it is refused; fml" in capsys.readouterr().out


# What goes wrong --------------------------------------------------------------------------------------------


def test_a_network_that_fails_is_one_machines_problem(tmp_path: Path) -> None:
    failing = model(machine="a")
    failing.net = Failing(3)
    give(tmp_path, failing, model(machine="b"))
    record(tmp_path / "spool", in_time(messages(values(), "a"), messages(values(), "b")))
    watcher = score_all(tmp_path)
    a, b = sorted(watcher.views(), key=lambda view: view.machine)
    assert a.reason == "its model scores nothing: its network Failing fails: this network fails"
    assert (a.health, b.health) == ("CHECK_FUNCTION", "FAILURE")
    assert len(journal(tmp_path, "b")) == 2 * HALF


def test_an_objective_says_whether_it_scores_and_what_follows_its_numbers() -> None:
    class Silent(Reconstruction):
        """An objective of a user's own that gives no score."""

        score = Objective.score

    scoring = (Classification(), Reconstruction(), Regression(), RemainingUsefulLife(cap=100.0))
    assert [each.gives_score for each in (*scoring, Silent())] == [True] * 4 + [False]
    assert [each.quantity for each in scoring] == ["", "", "", "left"]


# Rows -------------------------------------------------------------------------------------------------------


CHANNELS = ("rms", "kurtosis")


def of_rows() -> PersonalModel:
    """Sick where the kurtosis is above 6."""
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
        net.bias.copy_(torch.tensor([0.0, -24.0]))
    preprocessing = Preprocessing(None, RawWindows(), CHANNELS, inputs=("load",))
    return PersonalModel(
        net,
        Classification(),
        torch.zeros(3),
        None,
        CLASSES,
        preprocessing=preprocessing,
        site=SITE,
        machine="m",
    )


def scalars(count: int, sick_from: int, first: int = 0) -> tuple[list[Message], Tensor]:
    """A row every two seconds, whose numbers have messages of their own, and a load before each; and the rows."""
    rng = np.random.default_rng(first)
    table = np.stack([rng.normal(1, 0.1, count), rng.normal(3, 0.2, count), rng.normal(50, 1, count)], 1)
    table[sick_from:, 1] += 6
    table = table.astype(np.float32)
    found = []
    for row, numbers in enumerate(table.tolist()):
        at = BEGIN + 2_000_000 * (first + row)
        for place, (channel, number) in enumerate(zip(("load", *CHANNELS), np.roll(numbers, 1), strict=True)):
            came = at + 200_000 * place
            found.append(Message(f"rows/{SITE}/m/{channel}", json.dumps(number).encode(), came))
    return found, torch.from_numpy(table)


def record_rows(folder: Path, some: list[Message]) -> None:
    with Spool(folder) as spool:
        write_topics(folder, Topics((Topic("rows/{site}/{machine}/{channel}", JSONScalar()),), ()))
        for at in range(0, len(some), 7):
            spool.append(some[at : at + 7])


def test_a_machine_that_sends_single_numbers_is_watched_across_restarts(tmp_path: Path) -> None:
    give(tmp_path, of_rows())
    some, table = scalars(60, sick_from=40)
    for end in (50, 101, 180):  # within a row, too
        begin = {50: 0, 101: 50, 180: 101}[end]
        record_rows(tmp_path / "spool", some[begin:end])
        watcher = score_all(tmp_path)
        if end == 101:
            watcher.keep()  # a snapshot in the middle of a row
    scored = journal(tmp_path)
    # The load of the last row may still change: it is scored when a later one has come.
    assert [row["end"] for row in scored] == [BEGIN + 2_000_000 * row + 200_000 for row in range(59)]
    expected = of_rows().reading(table[:59, :2], told=table[:59, 2:].numpy())
    np.testing.assert_allclose([row["score"] for row in scored], expected.score, atol=2e-6)
    (view,) = watcher.views()
    assert (view.health, view.reason, view.version) == ("FAILURE", "outer", "v1")
    detail = watcher.detail(SITE, "m")
    assert detail is not None
    assert detail.frequencies == ()
    assert [change.what for change in detail.alarms] == ["raised", "model"]


@pytest.mark.parametrize(
    ("timing", "told", "expected"),
    [
        # The two numbers of a row are 0.2 s apart.
        (StreamTiming(within=0.1), {}, []),
        (StreamTiming(within=0.1), {"within": 0.3}, [0, 1, 2, 3, 4]),
        # The load is sent once, 0.2 s before row 0, and row k is 2 k s later.
        (StreamTiming(max_age=5.0), {}, [0, 1, 2]),
        (StreamTiming(max_age=5.0), {"max_age": 7.0}, [0, 1, 2, 3]),
    ],
)
def test_a_stream_is_cut_as_the_model_was_trained_unless_the_watch_is_told_otherwise(
    timing: StreamTiming, told: dict[str, float], expected: list[int], tmp_path: Path
) -> None:
    trained = of_rows()
    trained.timing = timing
    give(tmp_path, trained)
    some, _ = scalars(5, sick_from=5)
    some = [one for i, one in enumerate(some) if i == 0 or not one.topic.endswith("load")]
    record_rows(tmp_path / "spool", some + scalars(1, 1, first=40)[0])  # by the last, what is before is sure
    for _ in range(2):  # the second time from the journal alone
        score_all(tmp_path, **told)
    ends = [row["end"] for row in journal(tmp_path)]
    assert [end for end in ends if end < BEGIN + 10_000_000] == [
        BEGIN + 2_000_000 * row + 200_000 for row in expected
    ]


def test_a_watch_that_is_told_otherwise_after_a_restart_cuts_otherwise_from_there_on(tmp_path: Path) -> None:
    give(tmp_path, of_rows())
    some, _ = scalars(20, sick_from=20)
    record_rows(tmp_path / "spool", some[:30])
    score_all(tmp_path).keep()
    record_rows(tmp_path / "spool", some[30:])
    score_all(tmp_path, within=0.1)
    count = len(journal(tmp_path))
    assert 0 < count <= 10
    assert len(score_all(tmp_path, within=0.1).views()) == 1
    assert len(journal(tmp_path)) == count


def test_late_readings_are_scored_where_the_model_was_trained_with_them(tmp_path: Path) -> None:
    weeks = 30 * 86_400.0
    for name, timing, told, expected in (
        ("usual", StreamTiming(), {}, 0),
        ("trained", StreamTiming(max_lateness=2 * weeks), {}, 8),
        ("told", StreamTiming(), {"max_lateness": math.inf}, 8),
    ):
        trained = model()
        trained.timing = timing
        give(tmp_path / name, trained)
        came = BEGIN + round(weeks * 1e6)
        record(tmp_path / name / "spool", messages(values()[: 8 * LENGTH], received=came))
        score_all(tmp_path / name, **told)
        assert len(journal(tmp_path / name)) == expected, name


def test_numbers_that_make_no_row_are_told(tmp_path: Path) -> None:
    give(tmp_path, of_rows())
    some, _ = scalars(40, sick_from=40)
    record_rows(tmp_path / "spool", [message for message in some if "kurtosis" not in message.topic])
    watcher = score_all(tmp_path)
    assert not journal(tmp_path)
    assert watcher.followers[SITE].why_nothing("m") == "left out: 40 rows without a reading of every channel"


def test_rows_that_move_away_drift_and_those_of_a_fault_do_not(tmp_path: Path) -> None:
    """Rows have no spectrum: what moves is their mean, by which a fault is found too."""
    give(tmp_path, of_rows())
    for sick, reason in ((False, "the mean of channel 1 is +"), (True, "")):
        run = tmp_path / str(sick)
        run.mkdir()
        give(run, of_rows())
        healthy, _ = scalars(200, 200)
        moved, _ = scalars(200, 0 if sick else 200, first=200)
        if not sick:
            moved = [
                message._replace(payload=json.dumps(float(message.payload) + 1).encode())
                if message.topic.endswith("rms")
                else message
                for message in moved
            ]
        record_rows(run / "spool", healthy + moved)
        machine = score_all(run).state.get(SITE, "m")
        assert machine is not None
        assert machine.drift.frozen is not None
        assert machine.drift.reason.startswith(reason)
        assert bool(machine.drift.reason) is not sick
        assert machine.alarm.state == ("firing" if sick else "normal")


CONFIG = """
seed_everything: 1
model:
  learner:
    class_path: fml_lightning.FedAvg
    init_args:
      net: {{class_path: fml_lightning.MLP, init_args: {{in_features: 2, out_features: 1, hidden: [8]}}}}
      objective: {{class_path: fml_lightning.RemainingUsefulLife, init_args: {{cap: 100}}}}
      adaptation: {{lr: 0.1, steps: 5}}
data:
  class_path: fml_lightning.datamodules.Table
  init_args:
    path: {path}
    site: site
    machine: machine
    target: life
    kind: numbers
    time: time
    unseen: [south]
    episodes: {{shots: 10, queries: 10, of: as they come, permute_labels: false, centre: false}}
trainer: {{max_epochs: 5, enable_progress_bar: false, default_root_dir: {runs}}}
"""


def wear(row: int, rng: np.random.Generator) -> tuple[float, float]:
    """Vibration and heat of a machine that fails after a hundred rows."""
    return 1 + row / 50 + 0.05 * float(rng.normal()), 40 + row / 5 + 0.5 * float(rng.normal())


@pytest.mark.long
def test_a_remaining_life_from_a_table_to_a_watch_of_single_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit is said once, and a new model goes on with it."""
    rng = np.random.default_rng(0)
    lines = [
        f"{site},{machine},{row},{','.join(f'{number:.4f}' for number in wear(row, rng))},{100.0 - row}"
        for site, machine in (("north", "fan"), ("north", "pump"), ("south", "fan"))
        for row in range(100)
    ]
    (tmp_path / "lives.csv").write_text("\n".join(["site,machine,time,rms,heat,life", *lines]) + "\n")
    config = tmp_path / "lives.yaml"
    config.write_text(CONFIG.format(path=tmp_path / "lives.csv", runs=tmp_path / "runs"))
    assert learn(["fit", "--config", str(config)]) == 0
    run = next(path for path in (tmp_path / "runs").rglob("checkpoints")).parent
    asked = ["personalize", "--config", str(config), "--machine", "south/fan"]
    assert learn([*asked, "--limit", "1e4"]) == 0
    (made,) = (tmp_path / "runs").rglob("v1")
    run = made.parents[3]
    registry = Registry(run / "machines")
    assert registry.versions("south", "fan")[0].load().limit == 1e4
    registry.rollback("south", "fan", "v1")
    assert learn(asked) == 0
    assert [version.load().limit for version in registry.versions("south", "fan")] == [1e4, 1e4]
    registry.rollback("south", "fan", "v2")
    registry.versions("south", "fan")[1].model.unlink()  # by somebody who tidies up
    assert learn(asked) == 0
    assert registry.versions("south", "fan")[2].load().limit is None
    registry.rollback("south", "fan", "v1")
    some = [
        Message(f"rows/south/fan/{channel}", json.dumps(number).encode(), BEGIN + row * 10**6)
        for row in range(60)
        for channel, number in zip(("rms", "heat"), wear(row, rng), strict=True)
    ]
    record_rows(tmp_path / "spool", some)
    arguments = [str(run), "--spools.south", str(tmp_path / "spool"), "--once"]
    capsys.readouterr()
    assert run_command("watch", arguments) == 0
    assert "south/fan " in capsys.readouterr().out
    machine = recovered(run / "watch").get("south", "fan")
    assert machine is not None
    assert (machine.windows, machine.alarm.mean, machine.version) == (60, 1.0, "v1")
    numbers = np.float32([[json.loads(some[2 * row + k].payload) for k in range(2)] for row in (59,)])
    expected = registry.versions("south", "fan")[0].load().predict(numbers)
    assert machine.estimate == pytest.approx(expected.item(), rel=1e-4)
