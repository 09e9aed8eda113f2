"""What a watch publishes: to a real broker that comes, goes and is restarted."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import Environment
from paho.mqtt.client import Client
from probes import LONG, until
from test_watch import HEALTHY, SICK, score_all, scored, story, told, watch
from watched import SITE, give_models, in_time, record

from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.errors import UserError
from fml_lightning.live import publisher as module
from fml_lightning.live import state as state_module
from fml_lightning.live.log import Place
from fml_lightning.live.messages import Topics, discovery, outgoing
from fml_lightning.live.publisher import HealthPublisher
from fml_lightning.live.state import Change, Machine
from fml_lightning.live.watcher import Watcher

Heard = list[tuple[str, bytes, bool]]


@contextmanager
def listening(broker: Broker, *patterns: str) -> Iterator[Heard]:
    """Topic, payload and whether it was retained, of each message."""
    heard: Heard = []
    ready = threading.Event()
    client: Any = broker.connection("server.watcher").client("listener", Client)
    client.on_connect = lambda *_: [client.subscribe(pattern, qos=1) for pattern in patterns]
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _c, _u, m: heard.append((m.topic, bytes(m.payload), m.retain))
    client.connect(broker.host, broker.port)
    client.loop_start()
    assert ready.wait(LONG)
    yield heard
    client.disconnect()
    client.loop_stop()


def publisher(watcher: Watcher, connection: Connection, topics: Topics) -> HealthPublisher:
    assert watcher.outbox is not None
    return HealthPublisher(
        connection, watcher.outbox, topics, watcher.views, 300.0, lambda: watcher.problem is None
    )


def windows(heard: Heard) -> list[tuple[str, int]]:
    """Machine and message of each window that was published."""
    payloads = [json.loads(payload) for topic, payload, _ in heard if topic.endswith("/health")]
    return [(each["machine"], window[0]) for each in payloads for window in each["windows"]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose machines have strange names."""
    give_models(tmp_path, "a", "b 1")
    a, b = story("a", (4, HEALTHY), (6, SICK)), story("b 1", (10, HEALTHY), seed=5)
    record(tmp_path / "spool", in_time(a, b))
    return tmp_path


def test_each_window_and_change_is_published_with_its_number(run: Path, broker: Broker) -> None:
    topics = Topics("fml/{site}/{machine}/health", home_assistant=True)
    watcher = watch(run, topics)
    with listening(broker, "fml/#", "homeassistant/#") as heard:
        with publisher(watcher, broker.connection("server"), topics) as publishing:
            score_all(watcher)
            assert publishing.flush(LONG, threading.Event())
            until(lambda: sum("homeassistant" in topic for topic, _, _ in heard) == 6)
        until(lambda: ("fml/watch/status", b"offline", False) in heard)
        assert heard[0] == ("fml/watch/status", b"online", False)
        assert sorted(windows(heard)) == sorted((row[0], row[1]) for row in scored(run))
    told = {topic: json.loads(payload) for topic, payload, _ in heard if topic.startswith("homeassistant/")}
    assert {each["default_entity_id"] for each in told.values()} >= {"sensor.fml_plant_a_health"}
    assert all(topic.split("/")[1] == each["default_entity_id"].split(".")[0] for topic, each in told.items())
    last = json.loads([payload for topic, payload, _ in heard if topic == "fml/plant/a/health"][-1])
    assert (last["health"], last["fault"], last["alarm"], last["number"]) == ("FAILURE", "outer", "firing", 2)
    assert last["last_data"] == "2027-01-15T08:00:09.999+00:00"
    assert any(topic == "fml/plant/b%201/health" for topic, _, _ in heard)
    with listening(broker, "fml/#", "homeassistant/#") as kept:  # only what there is, is retained
        until(lambda: len(kept) == 6)
        assert {topic.split("/")[0] for topic, _, _ in kept} == {"homeassistant"}
        sensor = json.loads(
            {topic: payload for topic, payload, _ in kept}["homeassistant/sensor/fml_plant_a_health/config"]
        )
        assert sensor["state_topic"] == "fml/plant/a/health"
        assert sensor["availability_topic"] == "fml/watch/status"


def test_a_message_says_all_that_a_board_shows_but_the_trend(run: Path) -> None:
    view = score_all(watch(run, Topics())).views()[0]
    messages = told(run)
    assert messages
    assert all({*message} >= {*view.__struct_fields__} - {"trend"} for message in messages)


def test_home_assistant_has_no_number_where_there_is_none_and_no_alarm_while_it_is_shelved(run: Path) -> None:
    topics = Topics(home_assistant=True)
    watcher = watch(run, topics)

    def shown() -> dict[str, str]:
        """What Home Assistant makes of the newest message of machine a."""
        (view,) = (each for each in watcher.views() if each.machine == "a")
        (message,) = outgoing(topics, [Change(watcher.state.machines[SITE]["a"], None, [])], Place(0, 0))
        value, found = json.loads(bytes(message.payload)), dict[str, str]()
        for topic, payload in discovery(topics, view, 300.0):
            template = Environment().from_string(json.loads(payload)["value_template"])
            found[topic.split("/")[2].rpartition("_")[2]] = template.render(value_json=value)
        return found

    score_all(watcher)
    score = watcher.state.machines[SITE]["a"].alarm.mean
    assert shown() == {"health": "FAILURE", "score": str(round(score or 0, 3)), "alarm": "ON"}
    watcher.shelve(SITE, "a", 3600, "is repaired", "me")
    watcher.step(threading.Event())
    assert (shown()["health"], shown()["alarm"]) == ("CHECK_FUNCTION", "OFF")
    watcher.shelve(SITE, "a", 0, "", "me")
    watcher.step(threading.Event())
    assert shown()["alarm"] == "ON"
    watcher.state.machines[SITE]["a"].alarm.mean = None
    assert shown()["score"] == "None"


def test_a_machine_that_is_forgotten_is_taken_out_of_home_assistant(
    run: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "MOST_STRANGERS", 1)
    topics = Topics(home_assistant=True)
    watcher = watch(run, topics)
    with (
        listening(broker, "homeassistant/#") as heard,
        publisher(watcher, broker.connection("server"), topics),
    ):
        record(run / "spool", story("old-name", (1, HEALTHY)))
        score_all(watcher)
        until(lambda: len(heard) == 9)
        record(run / "spool", story("new-name", (1, HEALTHY)))
        score_all(watcher)
        until(lambda: len(heard) == 15)
    emptied = {topic for topic, payload, _ in heard if not payload}
    assert len(emptied) == 3
    assert all("old-name" in topic for topic in emptied)
    with listening(broker, "homeassistant/#") as kept:
        until(lambda: len(kept) == 9)
        assert not any("old-name" in topic for topic, _, _ in kept)


def test_a_machine_that_is_forgotten_while_the_broker_is_away_is_taken_out_too(run: Path) -> None:
    """By a connection that is another one once all is sent over it, when a machine is forgotten."""
    topics = Topics(home_assistant=True)
    watcher = score_all(watch(run, topics))
    assert watcher.outbox is not None
    a, b = sorted(watcher.views(), key=lambda view: view.machine)
    there = [a, b]
    publishing = HealthPublisher(Connection(), watcher.outbox, topics, lambda: there, 300.0)
    told: list[tuple[str, bool]] = []
    link = SimpleNamespace(connections=1, acknowledged=0, problem=None)
    flushes = itertools.count()

    def publish(topic: str, payload: bytes, *_: Any) -> bool:
        told.append((topic, bool(payload)))
        return True

    def flush(*_: Any, **__: Any) -> bool:
        count = next(flushes)
        if count == 1:
            there.remove(b)
            link.connections = 2
        elif count == 10:
            publishing._stop.set()
        return False

    link.publish, link.flush = publish, flush
    publishing._publish(link)  # type: ignore[arg-type]
    for view, expected in ((a, [True, True]), (b, [True, False])):
        (topic, *_), *_ = discovery(topics, view, 300.0)
        assert [is_there for each, is_there in told if each == topic] == expected


def test_a_broker_that_is_away_holds_up_nothing_and_misses_nothing(
    run: Path, start_broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.1)
    broker = start_broker()
    port = broker.port
    connection = broker.connection("server")
    broker.stop()
    watcher = watch(run, Topics())
    with publisher(watcher, connection, Topics()) as publishing:
        score_all(watcher)  # it does not wait for the broker
        assert len(scored(run)) == 80
        until(lambda: publishing.problem is not None)
        assert "it is kept, and published when that is mended" in str(publishing.problem)
        again = start_broker(port=port)
        again_connection = again.connection("server")
        publishing.connection = again_connection
        with listening(again, "fml/#") as heard:
            until(
                lambda: (
                    set(windows(heard)) == {(row[0], row[1]) for row in scored(run)}
                    and publishing.flush(0.0, threading.Event())
                )
            )
    later = watch(run, Topics())
    assert later.outbox is not None
    assert list(later.outbox.after(later.outbox.taken)) == []


def test_who_listens_later_learns_that_it_is_online(
    run: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALIVE", 0.1)
    topics = Topics()
    watcher = watch(run, topics)
    with publisher(watcher, broker.connection("server"), topics) as publishing:
        score_all(watcher)
        assert publishing.flush(LONG, threading.Event())
        with listening(broker, topics.status) as heard:
            until(lambda: ("fml/watch/status", b"online", False) in heard)


def test_a_watch_that_cannot_score_says_so_and_is_no_longer_available(
    run: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALIVE", LONG)  # it says each only once
    topics = Topics()
    watcher = score_all(watch(run, topics))
    with listening(broker, topics.status) as heard, publisher(watcher, broker.connection("server"), topics):
        until(lambda: [payload for _, payload, _ in heard] == [b"online"])
        watcher.problem = "nothing is scored: the disk is full"
        until(lambda: [payload for _, payload, _ in heard] == [b"online", b"not scoring"])
        watcher.problem = None
        until(lambda: [payload for _, payload, _ in heard] == [b"online", b"not scoring", b"online"])
    for _, content in discovery(topics, watcher.views()[0], 300.0):
        told = json.loads(content)["availability_template"]
        assert told == "{{ 'online' if value == 'online' else 'offline' }}"  # Home Assistant knows these two only


def test_what_was_published_is_known_after_a_restart(run: Path, broker: Broker) -> None:
    for expected in (80, 0):
        watcher = watch(run, Topics())
        with listening(broker, "fml/#") as heard:
            with publisher(watcher, broker.connection("server"), Topics()) as out:
                score_all(watcher)
                assert out.flush(LONG, threading.Event())
            until(lambda: ("fml/watch/status", b"offline", False) in heard)
            assert len(windows(heard)) == expected


@pytest.mark.parametrize(
    "topic",
    [
        "fml/health",
        "fml/+/{machine}",
        "fml/{plant}/{machine}",
        "#{machine}",
        "fml\0{machine}",
        "x" * 9999 + "{machine}",
    ],
)
def test_topics_that_cannot_be(topic: str) -> None:
    with pytest.raises(UserError, match=r"^publish\.topic: expected a topic with"):
        Topics(topic)


@pytest.mark.parametrize("status", ["", "fml/#", "fml/{site}/status", "fml\0status", "x" * 9999])
def test_statuses_that_cannot_be(status: str) -> None:
    with pytest.raises(UserError, match=r"^publish\.status: expected a topic without"):
        Topics(status=status)


def test_no_two_machines_are_one_for_home_assistant() -> None:
    names = [("a_b", "c"), ("a", "b_c"), ("a", "b.c"), ("a.b", "c"), ("a", "b c"), ("a-b", "c"), ("A-b", "c")]
    told = [discovery(Topics(), Machine(site, name).view(), 300.0) for site, name in names]
    topics = [topic for each in told for topic, _ in each]
    assert len({*topics}) == len(topics) == 3 * len(names)
    assert "homeassistant/sensor/fml_a-b_c_health/config" in topics
    assert all(re.fullmatch(r"[a-zA-Z0-9_/-]+", topic) for topic in topics)


assert SITE == "plant"
