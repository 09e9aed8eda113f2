"""A simulated fleet of rotating machines: bearings of different geometry, speed, load and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from fml_lightning.connectors.plant.randomization import Randomization
from fml_lightning.connectors.plant.simulated_machine import CLASSES, SAMPLE_RATE, SimulatedMachine
from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, SiteRecordings
from fml_lightning.datamodules.recordings import Recording
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.features import Features
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.spectral import LogBandPowers
from fml_lightning.preprocessing.standardize import Standardize
from fml_lightning.preprocessing.windowing import Windowing
from fml_lightning.seeds import derive_seed


class SimulatedFleet(Fleet):
    """Sites of simulated machines, each with a sound bearing and three kinds of fault; needs no data.

    Every machine has its own bearing geometry, speed, load, resonances, and sensor gain and colouring, so one
    fixed model cannot fit all, while a few labelled windows tell a machine's own signature. Each recording tells
    its `speed` (Hz) and its bearing's fault orders `bpfo`, `bpfi`, `bsf` and `ftf`, for features that need them.

    Without `randomization`, machines are those of `Plant`, a narrow family. With it, they vary so widely that a
    real machine is like one more of them: what learns from them alone can start at real ones.

    Args:
        sites: number of training sites; 0 for a fleet that only tests what others (`JoinedFleets`) have taught.
        unseen_sites: number of sites held out.
        machines: machines per site.
        seconds: length of each machine's recording of each class, seconds.
        seed: draws the machines and their noise; the same seed gives the same fleet.
        windowing: how recordings become windows.
        features: what the network sees of a window; 128 `LogBandPowers` unless you say otherwise.
        standardize: how features are standardized; null: not at all.
        episodes: how episodes are drawn.
        randomization: the ranges that machines are drawn from; null: the machines of `Plant`.
        name: what sites are called, with their numbers. It draws other machines too.
    """

    classes = CLASSES

    def __init__(
        self,
        sites: int = 4,
        unseen_sites: int = 2,
        machines: int = 4,
        seconds: float = 6.0,
        seed: int = 0,
        windowing: Windowing = Windowing(),  # noqa: B008
        features: Features | None = None,
        standardize: Standardize | None = None,
        episodes: Episodes = Episodes(),  # noqa: B008
        randomization: Randomization | None = None,
        name: str = "plant",
    ) -> None:
        super().__init__(Preprocessing(windowing, features or LogBandPowers(), standardize=standardize), episodes)
        if min(sites, unseen_sites) < 0 or min(sites + unseen_sites, machines) < 1 or not seconds >= 0.1:
            raise UserError(
                "SimulatedFleet: expected at least one site, training or unseen, one machine, and seconds >= 0.1,"
                f" got {sites}, {unseen_sites}, {machines} and {seconds}"
            )
        self.size = (sites, unseen_sites, machines)
        self.seconds = seconds
        self.seed = seed
        self.randomization = randomization
        self.prefix = name

    def read(self) -> Iterator[SiteRecordings]:
        """Simulate every site: NAME1, NAME2, … train, the last ones are unseen."""
        sites, unseen_sites, machines = self.size
        for i in range(1, sites + unseen_sites + 1):
            names = [f"{self.prefix}{i}-machine{j}" for j in range(1, machines + 1)]
            yield SiteRecordings(f"{self.prefix}{i}", i > sites, partial(self._site, names))

    def _site(self, names: Sequence[str]) -> list[Recording]:
        return [recording for name in names for recording in self._machine(name)]

    def _machine(self, name: str) -> Iterator[Recording]:
        rng = np.random.default_rng(derive_seed(self.seed, name))
        machine = (self.randomization or SimulatedMachine).draw(rng)
        for label, fault in enumerate(self.classes):
            inputs = {"speed": machine.told_speed(rng), **machine.bearing.inputs}
            values = machine.run(fault, self.seconds, rng)
            yield Recording(name, "normal running", label, SAMPLE_RATE, values, inputs=inputs)
