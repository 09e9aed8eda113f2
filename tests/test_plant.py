import hashlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import LONG, needs_mosquitto
from test_broker import Subscriber

from fml_lightning.connectors.broker.broker import Broker
from fml_lightning.connectors.codecs.waveform import WaveformBlock
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.publisher import Publisher
from fml_lightning.connectors.plant.plant import Planned, Plant, Progress
from fml_lightning.connectors.plant.simulated_machine import CLASSES, SAMPLE_RATE
from fml_lightning.datamodules import SimulatedFleet
from fml_lightning.errors import UserError

START = 1_700_000_000_000_000
USERS = ("server", "plant1", "plant2", "plant3")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    needs_mosquitto()
    with Broker(tmp_path / "broker", users=USERS) as broker:
        yield broker


def of_each_site(broker: Broker) -> Connection:
    return Connection(broker.host, broker.port, "{site}", str(broker.folder / "{site}.password"))


def blocks(messages: list[Planned], machine: str) -> list[tuple[int, np.ndarray]]:
    """Times, µs, and samples of a machine's blocks."""
    found = []
    for message in messages:
        if message.topic.endswith(f"/{machine}/vibration"):
            (sample,) = WaveformBlock().decode(message.payload)
            assert sample.time is not None
            assert sample.sample_rate == SAMPLE_RATE
            found.append((sample.time, np.asarray(sample.values)))
    return found


def test_the_same_seed_plays_the_same() -> None:
    plant = Plant(sites=2, machines=2, seconds=1.5, seconds_per_state=0.5)
    messages = list(plant.messages(START))
    assert messages == list(plant.messages(START))
    assert messages != list(Plant(sites=2, machines=2, seconds=1.5, seconds_per_state=0.5, seed=1).messages(START))
    assert {message.site for message in messages} == {"plant1", "plant2"}
    dues = [message.due for message in messages]
    assert dues == sorted(dues)
    assert max(dues) <= 1.5
    second = Plant(sites=1, first_site=2, machines=2, seconds=1.5, seconds_per_state=0.5)
    assert sorted(second.messages(START)) == sorted(m for m in messages if m.site == "plant2")


def test_its_machines_are_the_fleets() -> None:
    fleet = SimulatedFleet(sites=1, unseen_sites=1, machines=2, seconds=0.7, seed=3)
    messages = list(
        Plant(sites=2, machines=2, seconds=2.8, seconds_per_state=0.7, block=1000, seed=3).messages(START)
    )
    for site in map(fleet.site, ("plant1", "plant2")):
        for machine, recordings in itertools.groupby(site.recordings, key=lambda recording: recording.machine):
            expected = np.concatenate([recording.load()[0] for recording in recordings])
            np.testing.assert_array_equal(np.concatenate([v for _, v in blocks(messages, machine)]), expected)


def test_blocks_follow_each_other_without_a_gap() -> None:
    # 8400 samples a state: 8 blocks of 1000 and one of 400
    messages = list(Plant(sites=1, machines=1, seconds=2.1, seconds_per_state=0.7, block=1000).messages(START))
    found = blocks(messages, "plant1-machine1")
    assert [len(values) for _, values in found] == [*[1000] * 8, 400] * 3
    samples = np.cumsum([0, *(len(values) for _, values in found)])
    assert [at for at, _ in found] == [START + round(n / 12_000 * 1e6) for n in samples[:-1]]
    # It is sent when its last sample has been measured.
    dues = [message.due for message in messages if message.topic.endswith("vibration")]
    assert dues == pytest.approx(list(samples[1:] / 12_000))


def test_a_long_state_is_simulated_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.connectors.plant.plant.LONGEST_RECORDING", 5000)
    messages = list(Plant(sites=1, machines=1, seconds=1.0, seconds_per_state=1.0, block=4000).messages(START))
    found = blocks(messages, "plant1-machine1")
    assert [len(values) for _, values in found] == [4000, 1000, 4000, 1000, 2000]
    assert [at - START for at, _ in found] == [0, 333_333, 416_667, 750_000, 833_333]


def test_an_event_comes_before_the_blocks_of_its_state() -> None:
    messages = list(Plant(sites=1, machines=1, seconds=3.2, seconds_per_state=0.7, block=4200).messages(START))
    kinds = [message.topic.rsplit("/", 1)[1] for message in messages if "temperature" not in message.topic]
    assert kinds == ["events", "vibration", "vibration"] * 4 + ["events", "vibration"]
    events = [json.loads(message.payload) for message in messages if message.topic.endswith("events")]
    assert [event["label"] for event in events] == [*CLASSES, "normal"]
    starts = [round(datetime.fromisoformat(event["time"]).timestamp() * 1e6) for event in events]
    assert starts == [at for at, _ in blocks(messages, "plant1-machine1")[::2]]


def test_a_fault_warms_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.connectors.plant.plant.TIME_CONSTANT", 6.0)
    messages = Plant(sites=1, machines=1, seconds=119, seconds_per_state=30).messages(START)
    temperatures = [json.loads(m.payload) for m in messages if m.topic.endswith("/temperature")]
    assert [t["time"] for t in temperatures] == [START // 1000 + 1000 * i for i in range(120)]
    values = np.array([t["value"] for t in temperatures])
    healthy = np.mean(values[:30])
    assert np.mean(values[80:]) == pytest.approx(healthy + 8, abs=0.1)
    # Six steps of a second after the change: a time constant.
    assert values[35] == pytest.approx(healthy + 8 * (1 - np.exp(-1)), abs=0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": 0}, "sites, machines and first_site of at least 1"),
        ({"block": 1}, "block of at least 2"),
        ({"speed": 0.0}, "speed above 0"),
        ({"speed": float("inf")}, "speed above 0"),
        ({"seconds_per_state": 0.05}, r"seconds_per_state of at least 0\.1"),
        ({"seconds": 0.0}, "seconds above 0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plant(**options)


def test_it_publishes_what_it_plays_on_schedule(broker: Broker) -> None:
    plant = Plant(of_each_site(broker), sites=2, machines=2, seconds=4.0, seconds_per_state=1.0, speed=4.0)
    seen: list[Progress] = []
    with Subscriber(broker.connection("server.recorder")) as subscriber:
        began, clock = time.monotonic(), time.time()
        end = plant.run(threading.Event(), seen.append)
        took = time.monotonic() - began
        subscriber.wait_for(lambda got: len(got) == end.published)
    assert took >= 1.0  # 4 s at 4 times real time
    assert end.seconds == 4.0
    assert end.published == end.acknowledged == len(seen)
    first = min(
        sample.time or 0
        for topic, payload in subscriber.received
        if topic.endswith("vibration")
        for sample in WaveformBlock().decode(payload)
    )
    assert first / 1e6 >= clock
    expected = [(message.topic, message.payload) for message in plant.messages(first)]
    assert sorted(subscriber.received) == sorted(expected)


AT_EVERY_CHANGE = {"autosave_on_changes": "true", "autosave_interval": "1"}


@pytest.mark.parametrize(
    ("end", "settings", "forgotten"),
    [
        ("stop", {}, 0),
        (
            "kill",
            AT_EVERY_CHANGE,
            40,
        ),  # even so, it may forget what it acknowledged last: one window a site
    ],
)
def test_the_plant_loses_nothing_when_the_broker_restarts(
    tmp_path: Path, end: str, settings: dict[str, str], forgotten: int, caplog: pytest.LogCaptureFixture
) -> None:
    needs_mosquitto()
    with Broker(tmp_path / "broker", users=USERS, settings=settings) as broker:
        plant = Plant(of_each_site(broker), sites=2, machines=1, seconds=12.0, block=800, speed=6.0)
        halfway = threading.Event()
        ends: list[Progress] = []

        def run() -> None:
            ends.append(plant.run(threading.Event(), lambda p: halfway.set() if p.seconds > 4 else None))

        thread = threading.Thread(target=run)
        with Subscriber(broker.connection("server.recorder")) as subscriber:
            thread.start()
            assert halfway.wait(LONG)
            getattr(broker, end)()
            broker.start()
            thread.join(LONG)
            assert not thread.is_alive()
            subscriber.wait_for(lambda got: len(set(got)) >= ends[0].published - forgotten)
    assert ends[0].acknowledged == ends[0].published
    first = {topic: payload for topic, payload in reversed(subscriber.received) if topic.endswith("vibration")}
    start = min(WaveformBlock().decode(payload)[0].time or 0 for payload in first.values())
    expected = {(m.topic, m.payload) for m in plant.messages(start)}
    assert set(subscriber.received) <= expected
    assert len(expected - set(subscriber.received)) <= forgotten
    assert len(expected) > 300
    assert "trying again" in caplog.text


def test_it_stops_when_told(broker: Broker) -> None:
    stop = threading.Event()
    end = Plant(of_each_site(broker), sites=1, machines=1).run(stop, lambda _: stop.set())
    assert end.acknowledged == end.published == 1  # of messages without end


def test_it_says_once_that_it_is_behind(
    broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fml_lightning.connectors.plant.plant.LATE", 0.01)
    with caplog.at_level(logging.WARNING):
        Plant(of_each_site(broker), sites=1, machines=1, seconds=10.0, speed=10_000.0).run(threading.Event())
    assert len([record for record in caplog.records if "behind its schedule" in record.getMessage()]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda broker: Connection(broker.host, 1), "no connection with the broker 127.0.0.1:1 .*is it running"),
        (lambda broker: Connection(broker.host, broker.port), "expected a username, got none"),
        (
            lambda broker: Connection(
                broker.host, broker.port, "{site}", password_file=str(broker.password_file("server"))
            ),
            "refuses the user 'plant1' .*check username and password",
        ),
        (
            lambda broker: Connection(broker.host, broker.port, "plant3", str(broker.password_file("plant3"))),
            "refuses a message of the user 'plant3' .*allow them to write",
        ),
    ],
)
def test_a_broker_that_is_absent_or_refuses(
    broker: Broker, change: Callable[[Broker], Connection], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        Plant(change(broker), sites=1, machines=1, seconds=5.0, speed=50.0).run(threading.Event())
    assert not any(password in str(error.value) for password in broker.passwords.values())


def test_a_publisher_gives_up_a_broker_that_no_longer_accepts_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fml_lightning.connectors.mqtt.publisher.LONGEST_WAIT", 0.05)
    with Publisher(broker.connection("plant1"), "test") as publisher:
        publisher.publish("plant/plant1/a", b"", threading.Event())
        assert publisher.flush(timeout=LONG)
        port = broker.port
        broker.stop()

        def publish_on() -> None:
            for _ in range(1000):
                publisher.publish("plant/plant1/a", b"", threading.Event())

        with (
            Broker(broker.folder.parent / "another", users=USERS, port=port),
            pytest.raises(UserError, match="refuses the user 'plant1'"),
        ):
            publish_on()


TROUBLED: dict[str, Any] = {
    "sites": 1,
    "machines": 3,
    "seconds_per_state": 0.5,
    "labelled_for": 3.0,
    "growing": {"plant1-machine2": "outer"},
    "drifting": ["plant1-machine3"],
    "onset": 4.0,
    "growth": 4.0,
}


def samples(messages: list[Planned], machine: str) -> np.ndarray:
    return np.concatenate([values for _, values in blocks(messages, machine)])


def test_a_fault_grows_and_a_sensor_drifts_in_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.connectors.plant.plant.LONGEST_RECORDING", 24_000)
    messages = list(Plant(**TROUBLED, seconds=13.0).messages(START))
    healthy = list(Plant(**{**TROUBLED, "growing": {}, "drifting": []}, seconds=13.0).messages(START))
    # A machine without trouble is the same, and so are the others until the recording in which theirs begins.
    np.testing.assert_array_equal(samples(messages, "plant1-machine1"), samples(healthy, "plant1-machine1"))
    second, third = samples(messages, "plant1-machine2"), samples(messages, "plant1-machine3")
    np.testing.assert_array_equal(second[: 3 * 12_000], samples(healthy, "plant1-machine2")[: 3 * 12_000])
    # The fault is the labelled one: an impulse at each strike, none at the onset, all of it 4 s later.
    loud = [second[s * 12_000 : (s + 1) * 12_000].std() for s in range(13)]
    assert loud[3] < loud[6] < loud[8]
    assert loud[4] < 1.2 * loud[3]
    # The sensor loses exactly half of its gain: 0.5 ** (1 / 2) of it is left half-way.
    gain = third / samples(healthy, "plant1-machine3")
    np.testing.assert_allclose(gain[: 4 * 12_000], 1.0)
    np.testing.assert_allclose(gain[6 * 12_000], 0.5**0.5, rtol=1e-5)
    np.testing.assert_allclose(gain[8 * 12_000 :], 0.5, rtol=1e-6)


def test_nobody_labels_a_machine_in_service() -> None:
    messages = Plant(**TROUBLED, seconds=13.0).messages(START)
    events = [
        (message.due, json.loads(message.payload)["label"])
        for message in messages
        if message.topic.endswith("machine2/events")
    ]
    assert events == [*((0.5 * k, state) for k, state in enumerate((*CLASSES, *CLASSES[:2]))), (3.0, "unlabelled")]


def test_without_trouble_a_plant_is_as_it_was() -> None:
    """The bytes of a plant of before growing faults and drifting sensors were thought of."""
    plant = Plant(sites=1, machines=2, seconds=5.0, seconds_per_state=1.0)
    digest = hashlib.sha256(b"".join(m.topic.encode() + m.payload for m in plant.messages(START))).hexdigest()
    assert digest == "fad24a1a4e6b9b7556b5ad6964467c66a028898984e5c212c6f5205bde1686c8"


def test_a_growing_fault_warms_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fml_lightning.connectors.plant.plant.TIME_CONSTANT", 0.1)
    plant = Plant(**TROUBLED, seconds=13.0)
    values = {
        machine: [
            json.loads(m.payload)["value"]
            for m in plant.messages(START)
            if m.topic.endswith(f"{machine}/temperature")
        ]
        for machine in ("machine1", "machine2")
    }
    for machine, warmer in (("machine1", 0.0), ("machine2", 8.0)):
        assert np.mean(values[machine][8:]) - values[machine][3] == pytest.approx(warmer, abs=0.5)
    assert values["machine2"][6] - values["machine2"][3] == pytest.approx(4.0, abs=0.5)  # half-way


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"growing": {"plant1-machine9": "outer"}},
            r"Plant\.growing: .* such as plant1-machine1, got plant1-machine9",
        ),
        ({"drifting": ["pump"]}, r"Plant\.drifting: .* got pump"),
        ({"drifting": "plant1-machine1"}, "expected a list of machines"),
        ({"growing": {"plant1-machine1": "normal"}}, "expected one of ball, inner, outer, got 'normal'"),
        ({"growing": {"plant1-machine1": "ball"}, "labelled_for": None}, "labelled_for None and onset 4"),
        ({"onset": 2.0}, r"labelled_for 3\.0 and onset 2\.0"),
        ({"growth": 0.0}, "growth above 0"),
        ({"labelled_for": 0.0}, "labelled_for and growth above 0"),
    ],
)
def test_which_troubles_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plant(**{**TROUBLED, **options})
