"""Randomization of simulated machines, wide enough that a real one looks like one more of them.

Tobin et al., Domain Randomization for Transferring Deep Neural Networks from Simulation to the Real World, IROS
2017. https://arxiv.org/abs/1703.06907
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from fml_lightning.bearing import Bearing
from fml_lightning.connectors.plant.randomized_machine import RandomizedMachine, Range
from fml_lightning.errors import UserError

LIMITS = {
    "ratio": (0.05, 0.5),
    "contact_angle": (0, 60),
    "shaft": (0.5, 500),
    "load": (0, 1),
    "resonances": (100, 5900),
    "damping": (0.001, 0.5),
    "gain": (0, 5),
    "colour": (0, 5),
    "noise": (1e-6, 100),
    "speed_error": (0, 0.5),
    "severity": (1e-6, 100),
    "growth": (0, 1000),
    "other_fault": (0, 1),
    "drift": (0, 0.2),
    "slip": (0, 0.1),
    "load_zone": (0.05, 10),
    "coupling": (0, 0.5),
    "outer_modulation": (0, 1),
    "ball_asymmetry": (0, 1),
    "scatter": (0, 3),
    "wander": (0, 1),
    "roughness": (0, 10),
    "looseness": (0, 100),
    "gear": (0, 100),
    "sidebands": (0, 1),
    "hum": (0, 100),
    "mains": (10, 400),
    "impacts": (0, 1000),
    "impact_size": (1e-6, 1000),
    "neighbour": (0, 100),
}
"""The least and the most that a number may be."""
COUNTS = {"balls": (3, 100), "modes": (0, 20), "teeth": (3, 500)}
"""The same for whole numbers."""


@dataclass(frozen=True)
class Randomization:
    """The ranges that simulated machines are drawn from, uniformly unless a range says otherwise.

    What is not described as *in a recording* is a machine's own and stays the same in all its recordings. A range
    [a, a] fixes a value, and where 0 leaves something out, [0, 0] does so for all machines. Amplitudes are shares
    of the impulse of a fault of size 1. What machines learnt in the default ranges has carried over to real
    bearings; gears, hum and the like, which a test rig does not have and a plant does, are left out there.
    """

    balls: tuple[int, int] = (7, 12)
    """Rolling elements. Deep-groove ball bearings from 6000 to 6320 have 7 to 10, cylindrical ones up to 20."""
    ratio: Range = (0.16, 0.27)
    """Ball diameter over pitch diameter; 0.16 to 0.27 in catalogues of ball bearings."""
    contact_angle: Range = (0.0, 0.0)
    """Contact angle, degrees: 0 deep-groove, 15 to 40 angular contact."""
    shaft: Range = (20.0, 32.0)
    """Shaft speed, Hz; motors of 4 poles turn at 24 to 25 (50 Hz mains) or 29 to 30 (60 Hz)."""
    speed_error: float = 0.002
    """Standard deviation, in a recording, of the speed that is told about the true one, as a share."""
    drift: Range = (0.0, 0.0)
    """Largest deviation, in a recording, of the speed from the machine's own, once or so up and down, as a share
    of it; 0 leaves it out. Motors on mains stay within 0.01, those on converters and wind turbines do not."""
    load: Range = (0.3, 1.0)
    """Share of full load; a fault strikes with 0.5 to 1 of its size."""
    severity: Range = (0.7, 1.3)
    """Size of a fault in a recording, log-uniform; incipient ones are 0.1 and less."""
    growth: Range = (0.0, 0.0)
    """Share by which a fault grows from the start of a recording to its end; 0 leaves it out."""
    other_fault: Range = (0.0, 0.0)
    """Size of a second fault, of another kind, in a recording with a fault, as a share of the first one, at most
    1; 0 leaves it out. The class is that of the first fault, which is the larger one."""
    slip: Range = (0.01, 0.01)
    """Standard deviation of the intervals between strikes, as a share of them; 0 leaves it out. 0.01 to 0.02
    (Antoni and Randall 2002)."""
    load_zone: Range = (1.0, 1.0)
    """Load distribution factor ε (Stribeck): 0.5 where half the circumference bears the load, as without clearance
    and preload, less with clearance, 1 where all of it does."""
    coupling: Range = (0.0, 0.0)
    """Share of an outer or inner fault's impulse that rings at the other one's resonance, at most 0.5; 0 leaves it
    out."""
    outer_modulation: Range = (0.0, 0.0)
    """Share by which an outer race's strikes swell and fade with each revolution, as under unbalance, at most 1; 0
    leaves it out."""
    ball_asymmetry: Range = (0.0, 0.0)
    """Share by which a ball's strike on one race is weaker than on the other, at most 1; 0 leaves it out."""
    scatter: Range = (0.0, 0.0)
    """In a recording, standard deviation of the log of how hard each strike of a fault is; 0 leaves it out. An
    extended fault has more of it than a pit, and its lines stand out less."""
    wander: Range = (0.0, 0.0)
    """In a recording, the share of a ball's strikes that come at random, as the spot meets the races only now and
    then where the ball turns about changing axes; at most 1, where no line is left. 0 leaves it out."""
    roughness: Range = (0.0, 0.0)
    """In a recording, standard deviation of the noise of a faulty ball's rolling, as a share of its strikes; it
    makes the machine louder without a line, as most ball faults of CWRU do. 0 leaves it out."""
    resonances: Range = (900.0, 5200.0)
    """Housing resonances, of which a machine has two, Hz, below half the sample rate of 12,000."""
    damping: Range = (0.03, 0.06)
    """Damping ratio ζ of resonances."""
    modes: tuple[int, int] = (0, 0)
    """Further resonances of the mounting between bearing and sensor, in the range of `resonances`, that ring with
    up to half of every impulse; 0 leaves them out."""
    gain: float = 0.7
    """Standard deviation of the log of the sensor's gain; 0 if all are calibrated."""
    colour: float = 0.6
    """Standard deviation of the four cosine coefficients of the log amplitude response of path and sensor; 0 if
    all are flat."""
    noise: Range = (0.05, 0.6)
    """Standard deviation of the background noise, log-uniform."""
    looseness: Range = (0.0, 0.0)
    """Amplitude of the first half order of the shaft, the k-th one having a k-th of it, as loose feet make them; 0
    leaves it out. The shaft's own amplitude is 0.2."""
    gear: Range = (0.0, 0.0)
    """Amplitude of the mesh of a gear on the shaft, with two more harmonics; 0 leaves it out."""
    teeth: tuple[int, int] = (15, 60)
    """Teeth of that gear."""
    sidebands: Range = (0.1, 0.5)
    """Share by which the shaft modulates its mesh."""
    hum: Range = (0.0, 0.0)
    """Amplitude of twice the mains frequency, with mains and twofold harmonics at 0.3 of it; 0 leaves it out."""
    mains: tuple[float, ...] = (50.0, 60.0)
    """Mains frequencies to choose from, Hz."""
    impacts: Range = (0.0, 0.0)
    """Blows at random times, per second; 0 leaves them out."""
    impact_size: Range = (0.5, 3.0)
    """Amplitude of a blow, log-uniform."""
    neighbour: Range = (0.0, 0.0)
    """Share of the vibration of another machine, drawn from the same ranges and in a state of its own, that the
    structure carries to the sensor, above 2 kHz less; 0 leaves it out."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple | list) else (value,)
            whole = field.name in COUNTS
            low, high = (COUNTS if whole else LIMITS)[field.name]
            kind = int if whole else int | float
            good = all(isinstance(v, kind) and math.isfinite(v) and low <= v <= high for v in values)
            is_range = field.name != "mains" and isinstance(value, tuple | list)
            if not good or not values or (is_range and (len(values) != 2 or values[0] > values[1])):
                what = "two numbers, the smaller one first," if is_range else "numbers"
                raise UserError(
                    f"Randomization.{field.name}: expected {what} from {low:g} to {high:g}, got {value}; mend it"
                )

    def draw(self, rng: np.random.Generator) -> RandomizedMachine:
        """A machine of a random make, mounting, calibration and surroundings.

        What is drawn does not depend on what is left out or fixed: a machine with hum is otherwise the same as
        without, and one of 9 balls the same as one of 7 to 12.
        """

        def log_uniform(limits: Range) -> float:
            return math.exp(rng.uniform(*np.log(limits)))

        def below(choices: int, source: np.random.Generator = rng) -> int:
            # `integers(1)` takes nothing from the source, and all that is drawn later would be other numbers.
            drawn = source.integers(max(choices, 2))
            return int(drawn) if choices > 1 else 0

        def count(limits: tuple[int, int], source: np.random.Generator = rng) -> int:
            return limits[0] + below(limits[1] - limits[0] + 1, source)

        of_modes, of_neighbour = rng.spawn(2)
        machine = RandomizedMachine(
            bearing=Bearing(count(self.balls), rng.uniform(*self.ratio), rng.uniform(*self.contact_angle)),
            shaft=rng.uniform(*self.shaft),
            load=rng.uniform(*self.load),
            resonances=(rng.uniform(*self.resonances), rng.uniform(*self.resonances)),
            damping=rng.uniform(*self.damping),
            gain=math.exp(rng.normal(0, self.gain)),
            colour=tuple(rng.normal(0, self.colour, 4).tolist()),
            noise=log_uniform(self.noise),
            slip=rng.uniform(*self.slip),
            load_zone=rng.uniform(*self.load_zone),
            coupling=rng.uniform(*self.coupling),
            outer_modulation=rng.uniform(*self.outer_modulation),
            ball_asymmetry=rng.uniform(*self.ball_asymmetry),
            looseness=rng.uniform(*self.looseness),
            gear=rng.uniform(*self.gear),
            teeth=count(self.teeth),
            sidebands=rng.uniform(*self.sidebands),
            hum=rng.uniform(*self.hum),
            mains=self.mains[below(len(self.mains))],
            impacts=rng.uniform(*self.impacts),
            neighbour_share=rng.uniform(*self.neighbour),
            impact_size=self.impact_size,
            speed_error=self.speed_error,
            severity=self.severity,
            scatter=self.scatter,
            wander=self.wander,
            roughness=self.roughness,
            growth=self.growth,
            other_fault=self.other_fault,
            drift=self.drift,
            modes=tuple(
                (of_modes.uniform(*self.resonances), of_modes.uniform(0, 0.5))
                for _ in range(count(self.modes, of_modes))
            ),
        )
        if not machine.neighbour_share:
            return machine
        return replace(machine, neighbour=replace(self, neighbour=(0.0, 0.0)).draw(of_neighbour))
