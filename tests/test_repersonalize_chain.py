"""A watch that makes new models of machines that drift, by the real command, of labels that were said since."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from probes import until
from test_watch import RULES
from watched import BEGIN, LENGTH, SECOND, SITE, TOPICS, in_time, messages, signal

from fml_lightning.commands.learning import run
from fml_lightning.commands.model_maker import ModelMaker
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.live.journal import Journal
from fml_lightning.live.records import Scored
from fml_lightning.live.repersonalizer import Repersonalizer
from fml_lightning.live.scoring import RegistryModels
from fml_lightning.live.watcher import Settings, Watcher
from fml_lightning.personal.registry import Registry

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("prompt")]

CONFIG = """
model:
  learner:
    class_path: MAML
    init_args:
      net: {class_path: MLP, init_args: {in_features: 4, out_features: 2, hidden: [], norm_input: false}}
      inner_loop: {lr: 0.5, steps: 5}
  local_steps: 60
  max_wait: 0
data:
  class_path: SpoolFleet
  init_args:
    spools: {plant: spool}
    classes: [normal, outer]
    unseen: [a, b, c]
    windowing: {length: 1024, hop: 1024}
    features: {class_path: LogBandPowers, init_args: {bands: 4}}
    episodes: {shots: 20, queries: 5, of: normal only, normal: normal, permute_labels: false}
trainer: {max_steps: 6, enable_progress_bar: false, limit_val_batches: 0, logger: false}
"""
RUN = Path("runs/own/1")
FIRST = 120.0
"""Seconds that are labelled from their beginning on."""
BASELINE, DRIFT = 200.0, 360.0
"""Seconds of healthy data, and of what comes after them."""


def at(seconds: float) -> int:
    return BEGIN + round(seconds * SECOND)


def label(machine: str, word: str, seconds: float) -> Message:
    """A label that is said at the moment from which on it holds."""
    time = datetime.fromtimestamp(at(seconds) / SECOND, UTC).isoformat()
    payload = msgspec.json.encode({"time": time, "label": word})
    return Message(f"plant/{SITE}/{machine}/events", payload, at(seconds))


def sent(machine: str, begin: float, seconds: float, seed: int, gain: float = 1.0) -> list[Message]:
    return messages(signal(seconds, seed=seed, gain=gain), machine, at(begin), block=4 * LENGTH)


def record(some: list[Message]) -> None:
    with Spool(Path("spool")) as spool:
        spool.append(some)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A run whose machines a, b and c have models; a fault is that a machine is quieter by 20 dB."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(CONFIG)
    Path("spool").mkdir()
    write_topics(Path("spool"), TOPICS)
    trained = [
        [label("t", "normal", 0), label("t", "outer", FIRST)],
        sent("t", 0, FIRST, 1),
        sent("t", FIRST, FIRST, 2, 0.1),
    ]
    own = [[label(name, "normal", 0), *sent(name, 0, FIRST, 3 + k)] for k, name in enumerate("abc")]
    record(in_time(*trained, *own))
    assert run(["fit", "--config", "own.yaml"]) == 0
    assert run(["personalize", "--config", str(RUN / "config.yaml"), "--machine", "all"]) == 0
    registry = Registry(RUN / "machines")
    assert [current.card.verdict for name in "abc" if (current := registry.current("plant-unseen", name))] == [
        "ship"
    ] * 3
    return registry


def test_a_machine_that_drifts_has_a_better_model_by_itself_if_new_labels_confirm_it(models: Registry) -> None:
    """a becomes quieter by 20 dB, and it is said that this is normal; b too, and nobody says so; c by 2 dB only.

    To the first models quieter by 20 dB is a fault, and by 2 dB none. Of b, only the label of the beginning holds.
    """
    gains = {"a": 0.1, "b": 0.1, "c": 0.8}
    later = [
        sent(name, FIRST, BASELINE, 6 + k) + sent(name, FIRST + BASELINE, DRIFT, 9 + k, gain)
        for k, (name, gain) in enumerate(gains.items())
    ]
    confirmed = FIRST + BASELINE + 90
    record(in_time(*later, [label(name, "normal", confirmed) for name in "ac"]))
    (RUN / "watch").mkdir()
    rules = msgspec.structs.replace(RULES, repersonalize="auto")
    repersonalizer = Repersonalizer(RUN / "watch", models, ModelMaker.of(RUN).process())
    watcher = Watcher(
        RUN / "watch", {SITE: Path("spool")}, RegistryModels(models), Settings(rules), None, repersonalizer
    )

    def said() -> dict[str, str]:
        watcher._next_look = watcher._next_list = 0.0
        while watcher.step(threading.Event()):
            pass
        return {
            machine.name: each.reason
            for machine in watcher.state.every()
            for each in machine.alarm.changes
            if each.what == "personalized"
        }

    until(lambda: len(said()) == 3)
    reasons = said()
    assert reasons["a"].startswith("v2 watches now: it is better: accuracy 1.000 ("), reasons["a"]
    assert "and v1 has 0.000 on the same" in reasons["a"]
    assert reasons["b"].startswith(
        "no new model: b: expected a machine with 20 early windows and 1 late one of class"
    )
    assert "windows under a label that was said before since" in reasons["b"]
    assert reasons["c"].startswith(
        "v1 goes on watching, and v2 does not: it is not clearly better: accuracy 1.000"
    )
    until(lambda: said() is not None and {view.machine: view.version for view in watcher.views()}["a"] == "v2")
    views = {view.machine: view for view in watcher.views()}
    assert [views[name].version for name in "abc"] == ["v2", "v1", "v1"]
    assert views["b"].health == views["c"].health == "OFF_SPEC"
    new = models.versions("plant-unseen", "a")[-1].card
    assert new.support.first is not None
    assert new.support.first >= "2027-01-15T08:06:50"  # the label was said 410 s after 08:00
    record(in_time(*[sent(name, FIRST + BASELINE + DRIFT, 5, 20, gains[name]) for name in "ab"]))
    said()
    raw: dict[tuple[str, str], list[float]] = {}
    for _, some in Journal(RUN / "watch", writes=False).records():
        for scores in some.machines if isinstance(some, Scored) else ():
            raw.setdefault((scores.machine, scores.version), []).extend(x for x in scores.raw if x is not None)
    assert len(raw["a", "v2"]) == 5
    assert max(raw["a", "v2"]) < 0.5
    assert np.mean([score > 0.5 for score in raw["b", "v1"][-5:]]) == 1.0
