"""Federated training over spools while they fill."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from fml_lightning import MAML, MLP, Federation, InnerLoop, UserError
from fml_lightning.commands.learning import run
from fml_lightning.commands.release import release
from fml_lightning.connectors.codecs import WaveformBlock
from fml_lightning.connectors.codecs.waveform import encode_waveform
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.datamodules import Episodes, SimulatedFleet, SpoolFleet, SpoolSite
from fml_lightning.datamodules.fleet import Fleet
from fml_lightning.datamodules.spool.labels import CHANGING, EARLIER, UNCONFIRMED, Labels
from fml_lightning.datamodules.spool.left_out import LeftOut, Reason
from fml_lightning.errors import NotYetError
from fml_lightning.preprocessing import LogBandPowers, RawWindows, Standardize, Statistics, Windowing

MakeTrainer = Callable[..., Trainer]

BEGIN = 1_800_000_000_000_000  # µs since 1970
RATE = 1000.0  # Hz: a sample is 1000 µs
TOPICS = Topics((Topic("plant/{site}/{machine}/{channel}", WaveformBlock()),), (LabelTopic(),))


class Plant:
    """A site's devices: they send blocks and maintenance events into its spool."""

    def __init__(self, folder: Path, site: str) -> None:
        self.folder = folder
        self.site = site
        folder.mkdir(parents=True)
        write_topics(folder, TOPICS)
        self.now = BEGIN

    def send(self, machine: str, values: NDArray[np.float32], label: str, rate: float, size: int = 3000) -> None:
        """A stretch of samples under one label, after a pause."""
        self.now += 10_000_000
        time = datetime.fromtimestamp(self.now // 1_000_000, UTC).isoformat()
        event = msgspec.json.encode({"time": time, "label": label})
        messages = [Message(f"plant/{self.site}/{machine}/events", event, self.now)]
        for begin in range(0, len(values), size):
            at = self.now + round(begin / rate * 1e6)
            payload = encode_waveform(values[begin : begin + size], rate, time=at)
            messages.append(Message(f"plant/{self.site}/{machine}/vibration", payload, at))
        self.now += 1_000_000 * (1 + int(len(values) / rate))
        with Spool(self.folder) as spool:
            spool.append(messages)

    def tone(self, machine: str, label: str, windows: int = 12) -> None:
        """Windows of 64 samples whose pitch tells the label."""
        rng = np.random.default_rng(len(label) + windows)
        time = np.arange(64 * windows) / RATE
        pitch = {"normal": 50, "ball": 120, "outer": 300}[label]
        noise = 0.2 * rng.normal(size=len(time))
        self.send(machine, (np.sin(2 * np.pi * pitch * time) + noise).astype(np.float32), label, RATE)


SMALL = {
    "classes": ["normal", "ball", "outer"],
    "windowing": Windowing(length=64, hop=64),
    "features": LogBandPowers(bands=16),
    "episodes": Episodes(shots=1, queries=2, tasks=2, repeats=2),
}


@pytest.fixture
def plants(tmp_path: Path) -> dict[str, Plant]:
    """Two plants that have sent nothing yet."""
    return {site: Plant(tmp_path / site, site) for site in ("north", "south")}


def spools(plants: dict[str, Plant]) -> dict[str, str]:
    return {site: str(plant.folder) for site, plant in plants.items()}


def federation(patience: int = 3, quorum: int = 1, max_wait: float = 0.0) -> Federation:
    torch.manual_seed(1)
    learner = MAML(MLP(16, 3, hidden=(8,)), inner_loop=InnerLoop(lr=0.2, steps=1))
    return Federation(learner, local_steps=2, patience=patience, quorum=quorum, max_wait=max_wait)


class Between(Callback):
    """Does something before given rounds, and notes which sites trained and on how many windows."""

    def __init__(self, **actions: Callable[[], None]) -> None:
        self.actions = actions
        self.sites: list[int] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.actions.get(f"round{trainer.global_step}", lambda: None)()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.sites.append(int(trainer.callback_metrics["round/sites"]))


def test_a_frozen_spool_is_the_fleet_that_was_sent_into_it(tmp_path: Path) -> None:
    """36 windows of each class: the same early ones, gap and late ones, bit by bit."""
    options = {
        "windowing": Windowing(length=512, hop=256),
        "features": LogBandPowers(bands=32),
        "episodes": Episodes(queries=3, tasks=2),
    }
    simulated = SimulatedFleet(sites=1, unseen_sites=1, machines=2, seconds=1.536, **options)
    simulated.setup("fit")
    for site in (simulated.sites["plant1"], simulated.unseen["plant2"]):
        plant = Plant(tmp_path / site.name, site.name)
        for recording in site.recordings:
            label = simulated.classes[recording.label]
            plant.send(recording.machine, recording.load()[0], label, recording.sample_rate, size=777)
    fleet = SpoolFleet(
        {name: str(tmp_path / name) for name in ("plant1", "plant2")},
        list(simulated.classes),
        unseen=["plant2-*"],
        **options,
    )
    fleet.setup("fit")
    assert list(next(iter(fleet.train_dataloader()))) == ["plant1"]
    assert list(next(iter(fleet.val_dataloader()))) == ["plant1"]
    assert list(next(iter(fleet.test_dataloader()))) == ["plant2-unseen"]
    pairs = [
        (simulated.sites["plant1"], fleet.sites["plant1"]),
        (simulated.unseen["plant2"], fleet.unseen["plant2-unseen"]),
    ]
    for theirs, ours in pairs:
        assert theirs.machine_names == ours.machine_names
        for a, b in zip(theirs.machines, ours.machines, strict=True):
            for x, y in ((a.early, b.early), (a.late, b.late)):
                np.testing.assert_array_equal(x.x, y.x)
                np.testing.assert_array_equal(x.label, y.label)
        torch.manual_seed(3)
        episode = next(iter(theirs.train_dataloader()))
        torch.manual_seed(3)
        assert torch.equal(episode.support.x, next(iter(ours.train_dataloader())).support.x)
    assert fleet.unseen_machines() == ["plant2-machine1", "plant2-machine2"]
    assert fleet.site_of("plant1-machine2") is fleet.sites["plant1"]


def test_a_site_sits_out_until_it_has_enough_and_every_round_sees_what_has_arrived(
    plants: dict[str, Plant], quiet_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    for label in ("normal", "outer"):
        plants["north"].tone("n1", label)
    plants["south"].tone("s1", "normal")
    fleet = SpoolFleet(spools(plants), **SMALL)
    early: list[int] = []

    def look() -> None:
        early.append(sum(len(m.early.label) for m in fleet.sites["north"].machines))

    def grow() -> None:
        plants["north"].tone("n1", "ball", 20)
        plants["south"].tone("s1", "ball", 4)  # two early windows, and three are needed

    between = Between(round1=grow, round2=look, round4=lambda: plants["south"].tone("s1", "outer"))
    trainer = quiet_trainer(max_steps=6, callbacks=[between], check_val_every_n_epoch=2)
    trainer.fit(federation(), datamodule=fleet)
    assert between.sites == [1, 1, 1, 1, 2, 2]
    assert early == [6 + 6 + 10]
    told = [r.message for r in caplog.records if "sat round" in r.message and r.levelno == logging.WARNING]
    assert len(told) == 1  # not once a round, and validation can do with less
    assert told[0] == (
        "south sat round 0 out: south: expected a machine with 3 early windows of each of 2 classes; s1 has"
        " (early + late) normal 6 + 5, ball 0 + 0, outer 0 + 0, and 0 without a label"
    )
    assert trainer.callback_metrics["val/sites"] == 2


def test_a_machine_or_a_class_that_is_not_ready_stops_nobody(plants: dict[str, Plant]) -> None:
    for label in ("normal", "outer"):
        plants["north"].tone("n1", label)
    plants["north"].tone("n1", "ball", 2)
    plants["north"].tone("n2", "normal")
    fleet = SpoolFleet(spools(plants), **SMALL)
    fleet.setup("fit")
    site = fleet.sites["north"]
    torch.manual_seed(0)
    for episode in [next(iter(site.train_dataloader())), *site.val_dataloader()]:
        assert set(episode.machines) == {"n1"}
        assert episode.support.y.shape[1] == 2
    assert {int(k) for e in site.val_dataloader() for k in e.query.y.unique()} == {0, 2}
    assert site.personal_episode("n1", 0).machines == ("n1",)
    wanting = SpoolFleet(spools(plants), **{**SMALL, "episodes": Episodes(shots=500, queries=1)})
    wanting.setup("fit")
    for machine in ("n1", "n2"):  # whichever is asked for, though no machine of the site is ready
        with pytest.raises(NotYetError, match=f"{machine}: expected .*; {machine} has"):
            wanting.sites["north"].personal_episode(machine, 0)
    with pytest.raises(
        NotYetError, match=r"n2: expected a machine with 1 early window and.*normal 6 \+ 5, ball 0"
    ):
        site.personal_episode("n2", 0)
    with pytest.raises(UserError, match="expected one of the machines"):
        site.personal_episode("n3", 0)
    assert [e.machines for e in site.predict_dataloader()] == [("n1",)]


def test_normal_windows_are_enough_for_anomalies(plants: dict[str, Plant]) -> None:
    plants["north"].tone("n1", "normal")
    plants["north"].tone("n2", "outer")
    options = {**SMALL, "episodes": Episodes(shots=2, queries=2, tasks=2, normal=0)}
    fleet = SpoolFleet(spools(plants), **options)
    fleet.setup("fit")
    assert set(next(iter(fleet.sites["north"].train_dataloader())).machines) == {"n1"}
    with pytest.raises(
        NotYetError, match=r"south: the spool .* has no blocks .* of south: vibration yet, it is empty"
    ):
        next(iter(fleet.sites["south"].train_dataloader()))


def test_the_same_seed_on_a_frozen_spool_gives_the_same_numbers(
    plants: dict[str, Plant], quiet_trainer: MakeTrainer
) -> None:
    for site, plant in plants.items():
        for label in ("normal", "ball", "outer"):
            plant.tone(f"{site}1", label)
    results = []
    for _ in range(2):
        fleet = SpoolFleet(spools(plants), **SMALL)
        model = federation()
        seed_everything(4, verbose=False)
        quiet_trainer(max_steps=3, limit_val_batches=0).fit(model, datamodule=fleet)
        results.append(model.learner.params)
    assert all(torch.equal(p, results[1][name]) for name, p in results[0].items())


def test_held_out_machines_are_never_trained_on(plants: dict[str, Plant], quiet_trainer: MakeTrainer) -> None:
    for machine in ("n1", "n2", "n3"):
        for label in ("normal", "outer"):
            plants["north"].tone(machine, label)
    for label in ("normal", "outer"):
        plants["south"].tone("s1", label)
    fleet = SpoolFleet(spools(plants), unseen=["n[23]", "south/*"], **SMALL)
    fleet.setup("fit")
    assert {name: site.machine_names for name, site in next(iter(fleet.train_dataloader())).items()} == {
        "north": ["n1"]
    }
    assert fleet.unseen_machines() == ["n2", "n3", "s1"]
    assert fleet.site_of("n2").name == "north-unseen"
    assert len(list(fleet.predict_dataloader())) == 3
    model, trainer = federation(), quiet_trainer(max_steps=1)
    trainer.fit(model, datamodule=fleet)
    trainer.test(model, datamodule=fleet, verbose=False)
    assert [(r.site, r.machine) for r in model.results] == [
        ("north-unseen", "n2"),
        ("north-unseen", "n3"),
        ("south-unseen", "s1"),
    ]


def test_sites_and_channels_do_not_mix(tmp_path: Path, quiet_trainer: MakeTrainer) -> None:
    """One spool for two plants, both with a machine of the same name."""
    plant = Plant(tmp_path / "all", "north")
    plant.tone("pump", "normal")
    plant.site = "south"
    plant.tone("pump", "outer")
    folder = str(tmp_path / "all")
    fleet = SpoolFleet({"north": folder, "south": folder, "east": folder}, **SMALL)
    fleet.setup("fit")
    north, south = (set(fleet.sites[site].machines[0].early.label.tolist()) for site in ("north", "south"))
    assert (north, south) == ({0}, {2})
    with pytest.raises(UserError, match="pump is the name of machines at north, south"):
        fleet.site_of("pump")
    with pytest.raises(
        NotYetError, match=r"no blocks .* of east: vibration yet; it has north: vibration, south: vib"
    ):
        fleet.sites["east"].training_machines()
    with pytest.raises(
        NotYetError,
        match=r"0 of 1 sites \(quorum\) could work after 0 s \(max_wait\); east: the spool .*; north: ex",
    ):
        quiet_trainer(max_steps=1, limit_val_batches=0).fit(federation(), datamodule=fleet)


def test_labels_may_come_from_files(plants: dict[str, Plant], tmp_path: Path) -> None:
    plants["north"].tone("n1", "normal")
    half = datetime.fromtimestamp((BEGIN + 10_000_000) / 1e6, UTC) + timedelta(milliseconds=64 * 6)
    (tmp_path / "labels.csv").write_text(f"time,machine,label\n{half.isoformat()},n1,outer\n")
    options = {**SMALL, "labels": {"north": str(tmp_path / "labels.csv")}}
    fleet = SpoolFleet(spools(plants), **options)
    fleet.setup("fit")
    assert np.bincount(fleet.sites["north"].machines[0].early.label).tolist() == [3, 0, 3]
    with pytest.raises(UserError, match="labels are of sites that have no spool: west"):
        SpoolFleet(spools(plants), **{**SMALL, "labels": {"west": "labels.csv"}})


class Recorder:
    """A connector that records what is sent while it is open."""

    def __init__(self, spool: str, windows: int = 12) -> None:
        self.folder = Path(spool)
        self.windows = windows
        self.open = 0
        self.fault: str | None = None

    def __enter__(self) -> Recorder:
        self.open += 1
        if not self.folder.exists():
            plant = Plant(self.folder, self.folder.name)
            for label in ("normal", "outer"):
                plant.tone("m1", label, self.windows)
        return self

    def __exit__(self, *error: object) -> None:
        self.open -= 1

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def check(self) -> None:
        if self.fault is not None:
            raise UserError(self.fault)


def test_connectors_record_while_a_trainer_runs(tmp_path: Path, quiet_trainer: MakeTrainer) -> None:
    recorder = Recorder(str(tmp_path / "north"))
    fleet = SpoolFleet({"north": recorder}, **SMALL)
    opened = []
    between = Between(round0=lambda: opened.append(recorder.open))
    quiet_trainer(max_steps=1, limit_val_batches=0, callbacks=[between]).fit(federation(), datamodule=fleet)
    assert (opened, recorder.open) == ([1], 0)
    broken = Between(round0=lambda: setattr(recorder, "fault", "the password is refused"))
    with pytest.raises(UserError, match=r"every site failed in round 0, .*; north said: the password is refused"):
        quiet_trainer(max_steps=1, limit_val_batches=0, callbacks=[broken]).fit(federation(), datamodule=fleet)
    assert recorder.open == 0


def test_folders_and_connectors_parse_from_yaml(tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(Fleet, "data")
    config = f"""
    data:
      class_path: fml_lightning.datamodules.SpoolFleet
      init_args:
        spools:
          plant1: spools/plant1
          plant2:
            class_path: {__name__}.Recorder
            init_args: {{spool: {tmp_path / "plant2"}}}
          plant3:
            class_path: fml_lightning.connectors.MQTT
            init_args: {{spool: {tmp_path / "plant3"}}}
        classes: [normal, outer]
        unseen: [plant3-machine4]
        labels: null
        max_lateness: 3600
        aliases: {{old: new, plant1/new: newest}}
        windowing: {{length: 64, hop: 64}}
        episodes: {{shots: 1}}
    """
    fleet = parser.instantiate_classes(parser.parse_string(config)).data
    assert isinstance(fleet, SpoolFleet)
    assert [type(spool).__name__ for spool in fleet.spools.values()] == ["str", "Recorder", "MQTT"]
    assert fleet.streams["plant2"].folder == tmp_path / "plant2"
    assert fleet.streams["plant1"].aliases == {"old": "newest", "new": "newest"}
    assert fleet.streams["plant2"].aliases == {"old": "new"}
    assert fleet.streams["plant2"].windows.cutter.max_lateness == 3600


def test_a_fit_that_begins_before_the_data_waits_for_them(
    tmp_path: Path, quiet_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fml_lightning.federation.waiting.POLL", 0.01)
    looks = []

    class Device(SpoolSite):
        """Sends when it has been asked in vain three times."""

        def training_machines(self) -> Any:
            looks.append(1)
            if len(looks) == 3:
                plant = Plant(tmp_path / "north", "north")
                for label in ("normal", "outer"):
                    plant.tone("m1", label)
            return super().training_machines()

    monkeypatch.setattr("fml_lightning.datamodules.spool.fleet.SpoolSite", Device)
    fleet = SpoolFleet({"north": str(tmp_path / "north")}, **SMALL)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(federation(max_wait=900.0), datamodule=fleet)
    assert trainer.callback_metrics["round/sites"] == 1
    screen = capsys.readouterr().err
    assert "waiting for sites" in screen
    assert "start `fml record`" in screen
    nowhere = SpoolFleet({"north": str(tmp_path / "nowhere")}, **SMALL)
    with pytest.raises(
        NotYetError, match=r"round 0: 0 of 1 sites \(quorum\) .*; north: there is no spool in .*nowhere yet"
    ):
        quiet_trainer(max_steps=1, limit_val_batches=0).fit(federation(max_wait=0.05), datamodule=nowhere)


def test_a_round_ends_when_its_quorum_could_work(
    plants: dict[str, Plant], quiet_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the Federation would abandon rounds, one a millisecond, until its patience is over."""
    for label in ("normal", "outer"):
        plants["north"].tone("n1", label)
    plants["south"].tone("s1", "normal")
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 5:
            plants["south"].tone("s1", "outer")

    monkeypatch.setattr("fml_lightning.federation.waiting.time.sleep", sleep)
    fleet = SpoolFleet(spools(plants), **SMALL)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(federation(max_wait=900.0, quorum=2), datamodule=fleet)
    assert len(naps) == 5
    assert trainer.callback_metrics["round/sites"] == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"classes": ["a", "a"]}, "each once"),
        ({"classes": []}, "names of its classes"),
        ({"max_windows": 0}, "max_windows >= 1"),
        ({"max_lateness": -1.0}, "max_lateness >= 0"),
        ({"episodes": Episodes(normal=7, shots=2)}, "episodes.normal below 3"),
        ({"episodes": Episodes(support="first")}, "expected episodes.support: random, got first; of a stream"),
        ({"episodes": Episodes(per="recording")}, "a stream has neither recordings nor operating conditions"),
        (
            {"episodes": Episodes(tasks_of="conditions")},
            "a stream has neither recordings nor operating conditions",
        ),
    ],
)
def test_impossible_fleets_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        SpoolFleet({"north": "spools/north"}, **{**SMALL, **options})
    with pytest.raises(UserError, match="at least one spool"):
        SpoolFleet({}, **SMALL)


STATISTICS = Statistics([[0.0] * 16], [[1.0] * 16])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"resample": True}, "expected sample_rate with resample"),
        ({"standardize": Standardize()}, "SpoolFleet: expected standardize.statistics"),
        (
            {"windows_of": "rows", "features": RawWindows(), "unit": "g"},
            "no sample_rate, unit or resample with wind",
        ),
        (
            {
                "channel": ["x", "y"],
                "standardize": Standardize("channels", statistics=Statistics([[0.0]], [[1.0]])),
            },
            "expected statistics of 2 channels, got those of 1",
        ),
        (
            {"channel": ["x", "y"], "features": RawWindows(), "standardize": Standardize(statistics=STATISTICS)},
            "expected features in a row, got raw windows; set standardize.of: channels",
        ),
        ({"channel": ["x", "y"], "features": RawWindows(), "inputs": ["speed"]}, "beside them, got raw windows"),
        (
            {"unseen": ["nroth/m1"]},
            "unseen: expected .*got 'nroth/m1', and there is no spool of nroth; sites are no",
        ),
        ({"nameplates": {"nroth/m1": {"speed": 1}}}, "nameplates: expected .*there is no spool of nroth"),
        ({"nameplates": {"old": {"speed": 1}}, "aliases": {"old": "new"}}, "other numbers than of 'new'"),
    ],
)
def test_what_cannot_hold_on_a_stream_is_refused_when_the_fleet_is_made(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        SpoolFleet({"north": "spools/north"}, **{**SMALL, **options})


def test_patterns_that_fit_nothing_are_told_once(
    plants: dict[str, Plant], caplog: pytest.LogCaptureFixture
) -> None:
    fleet = SpoolFleet(
        spools(plants), unseen=["n2", "s1"], nameplates={"fan": {"speed": 30}, "north": {"speed": 20}}, **SMALL
    )
    fleet.setup("fit")
    assert "fits none" not in caplog.text  # machines may come
    for label in ("normal", "outer"):
        plants["north"].tone("n1", label)
        plants["south"].tone("s1", label)
    next(iter(fleet.train_dataloader()))
    fleet.setup("fit")
    plants["north"].tone("n3", "normal")
    fleet.setup("fit")
    told = [record.message for record in caplog.records if "fits none" in record.message]
    assert told == [
        "SpoolFleet.unseen: expected SITE, MACHINE or SITE/MACHINE, got 'n2', which fits none so far; sites are"
        " north, south, and machines n1, s1",
        "SpoolFleet.nameplates: expected SITE, MACHINE or SITE/MACHINE, got 'fan', which fits none so far; sites"
        " are north, south, and machines n1, s1",
    ]


def test_a_site_is_held_out_by_its_name(plants: dict[str, Plant]) -> None:
    for label in ("normal", "outer"):
        plants["north"].tone("n1", label)
        plants["south"].tone("s1", label)
    fleet = SpoolFleet(spools(plants), unseen=["south"], **SMALL)
    fleet.setup("fit")
    assert (list(fleet.sites), fleet.unseen_machines()) == (["north"], ["s1"])
    assert list(next(iter(fleet.train_dataloader()))) == ["north"]
    assert list(next(iter(fleet.test_dataloader()))) == ["south"]
    assert fleet.site_of("s1").name == "south"


def test_a_machines_own_order_of_labels_stays_the_same(tmp_path: Path) -> None:
    """On every look, whatever classes have come, and under a name that it had before."""
    options = {**SMALL, "episodes": Episodes(queries=2, tasks=2, own_order=True)}
    orders, labels = [], []
    for name in ("old", "P-101"):
        plant = Plant(tmp_path / name, "north")
        plant.tone(name, "normal")
        fleet = SpoolFleet({"north": str(plant.folder)}, aliases={"old": "P-101"}, **options)
        for label in ("outer", "ball"):
            plant.tone(name, label)
            fleet.setup("fit")
            (machine,) = fleet.sites["north"].machines
            orders.append(dict(machine.meanings))
        labels.append(machine.early.label.tolist())
        assert machine.name == "P-101"
    assert orders == [orders[0]] * 4
    assert labels[0] == labels[1]
    assert fleet.sites["north"].class_names("P-101", fleet.classes) == tuple(
        fleet.classes[orders[0][k]] for k in range(3)
    )


LEARNER = """
  class_path: fml_lightning.MAML
  init_args:
    net: {class_path: fml_lightning.MLP, init_args: {in_features: 16, out_features: 3, hidden: [8]}}
"""
DATA = """
  class_path: fml_lightning.datamodules.SpoolFleet
  init_args:
    spools: {north: north}
    classes: [normal, ball, outer]
    unseen: [n2]
    windowing: {length: 64, hop: 64}
    features: {class_path: fml_lightning.preprocessing.LogBandPowers, init_args: {bands: 16}}
    episodes: {shots: 1, queries: 2, tasks: 2, repeats: 2, centre: true}
"""


def test_what_has_no_label_is_predicted_with_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 windows of 64 ms and one class, 0 to 5 are early, and 7 to 11 late.

    Between two labelled stretches come 3 windows under a label that is no class, and after them 5.
    """
    monkeypatch.chdir(tmp_path)
    plant = Plant(Path("north"), "north")
    began: dict[str, dict[str, int]] = {}

    def stretch(machine: str, label: str, windows: int) -> None:
        began.setdefault(machine, {})[label] = plant.now + 10_000_000
        noise = np.random.default_rng(windows).normal(size=64 * windows)
        plant.send(machine, noise.astype(np.float32), label, RATE)

    for machine in ("n1", "n2"):
        for label, windows in (("normal", 12), ("repair", 3), ("outer", 12), ("?", 5)):
            stretch(machine, label, windows)
    Path("fit.yaml").write_text(
        f"model:\n  learner: {LEARNER.replace(chr(10), chr(10) + '  ')}\ndata: {DATA}\n"
        "trainer: {max_steps: 1, enable_progress_bar: false}\n"
    )
    Path("site.yaml").write_text(f"site: north\nlearner: {LEARNER}\ndata: {DATA}\n")
    assert run(["fit", "--config", "fit.yaml"]) == 0
    assert run(["predict", "--config", "fit.yaml"]) == 0
    Path("server").mkdir()
    assert release(["runs/fit/1"]) == 0
    (released,) = Path("server/released").glob("*.ckpt")
    assert run(["predict", "--site", "site.yaml", "--ckpt_path", str(released)]) == 0
    for machine, file in (("n2", "runs/fit/1/predict.parquet"), ("n1", "sites/north/predict.parquet")):
        frame = pl.read_parquet(file)
        rows = [("normal", "normal", k) for k in range(7, 12)] + [("outer", "outer", k) for k in range(7, 12)]
        rows += [(None, "?", k) for k in range(5)]
        assert set(frame["machine"]) == {machine}
        assert frame["window"].to_list() == list(range(15))
        assert list(zip(frame["label"], frame["time"].to_physical(), strict=True)) == [
            (label, began[machine][state] + 64_000 * k) for label, state, k in rows
        ]
        assert frame.select(pl.sum_horizontal("p_normal", "p_ball", "p_outer")).to_series().to_list() == (
            pytest.approx([1.0] * 15)
        )
    fleet = SpoolFleet({"north": "north"}, unseen=["n2"], **SMALL)
    fleet.setup("test")
    site = fleet.unseen["north-unseen"]
    for episode in (*site.val_dataloader(), *site.test_dataloader(), site.personal_episode("n2", 0)):
        assert episode.query.x.shape[1] == 10
        assert set(episode.query.y.flatten().tolist()) == {0, 2}


def test_since_leaves_out_earlier_windows_and_labels_that_were_said_before(
    plants: dict[str, Plant],
) -> None:
    """12 windows a tone, 64 ms each; a tone begins 10 s after the one before, and its label is said then."""
    north = plants["north"]
    north.tone("n1", "normal")
    north.tone("n1", "outer")
    border = north.now + 10_000_000
    north.tone("n1", "ball", windows=8)
    north.tone("n1", "normal", windows=5)

    def counts(since: int | None) -> tuple[dict[str, int], LeftOut]:
        text = None if since is None else datetime.fromtimestamp(since / 1e6, UTC).isoformat()
        fleet = SpoolFleet(spools(plants), since=text, **SMALL)
        fleet.setup("fit")
        site = fleet.sites["north"]
        assert isinstance(site, SpoolSite)
        (machine,) = site.machines
        labels = [SMALL["classes"][k] for side in (machine.early, machine.late) for k in side.label.tolist()]
        return dict(Counter(labels)), site.stream.left_out()

    whole, _ = counts(None)
    assert set(whole) == {"normal", "outer", "ball"}
    # "outer" was said before, and holds until the next label: the windows in between would be its own.
    since, left_out = counts(border - 100_000)
    assert set(since) == {"ball", "normal"}
    assert left_out[Reason.EARLIER] == 24
    assert counts(border)[0] == since
    # After "ball" was said, but while it holds: the four windows from there on are under it, and not confirmed.
    later, left_out = counts(border + 4 * 64_000)
    assert set(later) == {"normal"}
    assert (left_out[Reason.EARLIER], left_out[Reason.UNCONFIRMED]) == (28, 4)
    assert counts(north.now)[0] == {}


@pytest.mark.parametrize("since", ["yesterday", "2026-03-01T08:30:00", "2026-03-01"])
def test_since_is_a_time_with_an_offset(plants: dict[str, Plant], since: str) -> None:
    with pytest.raises(UserError, match=f"SpoolFleet.since: expected an ISO time with an offset .* got '{since}'"):
        SpoolFleet(spools(plants), since=since, **SMALL)


def test_a_label_that_is_said_again_confirms_what_holds_already() -> None:
    """Said at 10 of 10, and at 50 of 20: from 20 on it is confirmed, before not, and before 15 nothing counts."""
    labels = Labels("north", ["normal", "outer"], since=15)
    rows = {"time": [10, 20], "received": [10, 50], "machine": ["n1", "n1"], "label": ["normal", "normal"]}
    labels.add(pl.DataFrame(rows).with_columns(pl.col("time", "received").cast(pl.Datetime("us", "UTC"))))
    first = np.array([12, 15, 19, 20, 30])
    assert labels.at("n1", first, first + 5).tolist() == [EARLIER, CHANGING, CHANGING, 0, 0]
    assert labels.at("n1", first, first).tolist() == [EARLIER, UNCONFIRMED, UNCONFIRMED, 0, 0]


def test_a_held_out_machine_is_found_at_its_site_and_at_the_unseen_one(plants: dict[str, Plant]) -> None:
    for machine in ("n1", "n2"):
        plants["north"].tone(machine, "normal")
    fleet = SpoolFleet(spools(plants), unseen=["n2"], **SMALL)
    found = [fleet.machine_at(name) for name in ("n2", "north/n2", "north-unseen/n2", "north/n1")]
    assert [(site.name, name) for site, name in found] == [("north-unseen", "n2")] * 3 + [("north", "n1")]
