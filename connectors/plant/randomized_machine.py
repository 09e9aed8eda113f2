"""A simulated machine as plants have them: a bearing among gears, hum, blows, loose feet and other machines.

`SimulatedMachine` is the demo's; this one can do more, in less time. Faults strike as in McFadden and Smith,
Journal of Sound and Vibration 96, 1984, https://doi.org/10.1016/0022-460X(84)90595-9, and slip as in Antoni and
Randall, Journal of Vibration and Acoustics 124, 2002, https://doi.org/10.1115/1.1456906. What surrounds bearings
follows Randall, Vibration-based Condition Monitoring, Wiley 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fml_lightning.bearing import Bearing
from fml_lightning.connectors.plant.simulated_machine import CLASSES, SAMPLE_RATE

FAULTS = CLASSES[1:]
HALF_ORDERS = 12
"""Harmonics of half the shaft's speed by which loose feet are heard."""
STRUCTURE = 2000.0
"""Hz above which a structure damps what it carries from another machine, by 6 dB per octave."""

Range = tuple[float, float]
"""The smallest and the largest value."""


@dataclass(frozen=True)
class RandomizedMachine:
    """A machine, its surroundings, and the sensor on it; amplitudes are shares of a full-size fault's impulse."""

    bearing: Bearing
    shaft: float
    """Shaft speed, Hz."""
    load: float
    """Share of full load, 0 to 1."""
    resonances: tuple[float, float]
    """Housing resonances that outer and inner faults ring at, Hz; a ball rings at both."""
    damping: float
    """Damping ratio ζ of all resonances."""
    gain: float
    """Sensor gain; 1 is calibrated."""
    colour: tuple[float, ...]
    """Cosine coefficients of the sensor's log amplitude response over frequency."""
    noise: float
    """Standard deviation of the background noise."""
    speed_error: float = 0.0
    """Standard deviation of the told speed about the true one, as a share of it."""
    severity: Range = (1.0, 1.0)
    """Smallest and largest size of a fault at full load; a recording's is drawn log-uniformly."""
    growth: Range = (0.0, 0.0)
    """Share by which a fault grows from the start of a recording to its end."""
    other_fault: Range = (0.0, 0.0)
    """Size of a fault of another kind beside the one that names the class, as a share of it, below 1."""
    drift: Range = (0.0, 0.0)
    """Largest deviation of the speed from `shaft` within a recording, as a share of it."""
    slip: float = 0.01
    """Standard deviation of the intervals between strikes, as a share of them."""
    load_zone: float = 1.0
    """Stribeck's load distribution factor ε: the share of the bearing's diameter that is under load."""
    coupling: float = 0.0
    """Share of an outer or inner fault's impulse that rings at the other one's resonance, 0 to 0.5."""
    outer_modulation: float = 0.0
    """Share by which an outer race's strikes swell and fade with each revolution, as unbalance makes them."""
    ball_asymmetry: float = 0.0
    """Share by which a ball's strike on one race is weaker than the next one, on the other race."""
    scatter: Range = (0.0, 0.0)
    """Standard deviation of the log of how hard each strike is."""
    wander: Range = (0.0, 0.0)
    """Share of a ball's strikes that come at random, as it turns about changing axes."""
    roughness: Range = (0.0, 0.0)
    """Standard deviation of the noise of a faulty ball's rolling, as a share of its strikes."""
    modes: tuple[tuple[float, float], ...] = ()
    """Further resonances between bearing and sensor, Hz, and the share of all impulses that each rings with."""
    looseness: float = 0.0
    """Amplitude of the half orders of the shaft, as loose feet make them."""
    teeth: int = 20
    """Teeth of the gear on the shaft."""
    gear: float = 0.0
    """Amplitude of its mesh."""
    sidebands: float = 0.0
    """Share by which the mesh is modulated by the shaft."""
    hum: float = 0.0
    """Amplitude of twice the mains frequency."""
    mains: float = 50.0
    """Mains frequency, Hz."""
    impacts: float = 0.0
    """Blows at random times, per second."""
    impact_size: Range = (0.5, 3.0)
    """Their smallest and largest amplitude, log-uniform."""
    neighbour: RandomizedMachine | None = None
    """Another machine, in any state, that is heard through the structure."""
    neighbour_share: float = 0.0
    """The share of its vibration that arrives."""

    def told_speed(self, rng: np.random.Generator) -> float:
        """What a plant takes for the shaft's speed, Hz."""
        return self.shaft * (1 + self.speed_error * float(rng.normal()))

    def run(self, fault: str, seconds: float, rng: np.random.Generator) -> NDArray[np.float32]:
        """What the sensor records in `seconds` of running with a fault: (n,), 12 kHz.

        Faults, background and surroundings are drawn from generators of their own: a machine with hum is otherwise
        the same as without.
        """
        return self._sense(self._vibration(fault, int(seconds * SAMPLE_RATE), rng))

    def _vibration(self, fault: str, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
        of_motion, of_faults, of_background, of_surroundings, of_neighbour = rng.spawn(5)
        turns = self._turns(n, of_motion)
        vibration = self._tones(turns, of_surroundings)
        impulses = self._impulses(fault, turns, of_faults)  # (2, n)
        self._add_impacts(impulses, of_surroundings)
        ringing = [*zip(self.resonances, impulses, strict=True)]
        ringing += [(frequency, np.float32(share) * impulses.sum(0)) for frequency, share in self.modes]
        vibration += self._noise(n, of_background)
        for resonance, impulse in ringing:
            # Even a sound bearing rings a little at its housing's resonances.
            impulse += np.float32(0.3) * self._noise(n, of_background)
            vibration += self._ring(impulse, resonance)
        if self.neighbour is not None and self.neighbour_share:
            state = CLASSES[of_neighbour.integers(len(CLASSES))]
            heard = _through_structure(self.neighbour._vibration(state, n, of_neighbour))
            vibration += np.float32(self.neighbour_share) * heard
        return vibration

    def _noise(self, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
        return np.float32(self.noise) * rng.standard_normal(n, np.float32)

    def _turns(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Revolutions of the shaft at each sample, (n,): the speed swings about `shaft`, once or so in all."""
        drift, period, phase, first = rng.uniform(*self.drift), rng.uniform(0.7, 2), *rng.uniform(0, 1, 2)
        time = np.arange(n) / SAMPLE_RATE
        turns: NDArray[np.float64] = first + self.shaft * time
        if drift:
            swing = period * n / SAMPLE_RATE / (2 * np.pi)  # seconds per radian
            turns += self.shaft * drift * swing * np.sin(time / swing + 2 * np.pi * phase)
        return turns

    def _impulses(self, fault: str, turns: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
        """The impulses of all faults on either resonance, (2, n)."""
        of_balls, of_scatter = rng.spawn(2)
        severity = math.exp(rng.uniform(*np.log(self.severity))) * (0.5 + self.load / 2)
        growth, share = rng.uniform(*self.growth), rng.uniform(*self.other_fault)
        other = int(rng.integers(len(FAULTS) - 1))
        impulses = np.zeros((2, len(turns)), np.float32)
        if fault not in FAULTS:
            return impulses
        sizes = {fault: severity, [kind for kind in FAULTS if kind != fault][other]: share * severity}
        main = {"outer": (1 - self.coupling, self.coupling), "inner": (self.coupling, 1 - self.coupling)}
        for kind, size in sizes.items():
            if not size:
                continue
            at, strength = self._strikes(kind, turns, rng)
            strength *= size * (1 + growth * at / len(turns))
            strength *= np.exp(of_scatter.uniform(*self.scatter) * of_scatter.normal(size=len(at)))
            parts = main.get(kind, (0.6, 0.6))
            if kind == "ball":
                at, rolling = self._unsteady(at, size, len(turns), of_balls)
                impulses += np.float32(parts[0]) * rolling
            for row, part in zip(impulses, parts, strict=True):
                np.add.at(row, at, (part * strength).astype(np.float32))
        return impulses

    def _strikes(
        self, fault: str, turns: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The samples at which a fault strikes, and how hard."""
        bearing = self.bearing
        order = {"outer": bearing.bpfo, "inner": bearing.bpfi, "ball": 2 * bearing.bsf}[fault]
        count = int((turns[-1] - turns[0]) * order * 1.1) + 2  # slip makes some more or fewer
        intervals = rng.normal(1, self.slip, count)
        since = (np.cumsum(intervals) - rng.uniform()) / order  # revolutions
        at = np.interp(since, turns - turns[0], np.arange(len(turns)), left=-1, right=-1).astype(np.intp)
        angle = 2 * np.pi * turns[at]
        if fault == "outer":
            strength = (1 + self.outer_modulation * np.cos(angle)) / (1 + self.outer_modulation)
        elif fault == "inner":
            strength = load_at(angle, self.load_zone)
        else:
            strength = load_at(bearing.ftf * angle, self.load_zone)
            strength[::2] *= 1 - self.ball_asymmetry
        inside = at >= 0
        return at[inside], strength[inside]

    def _unsteady(
        self, at: NDArray[np.intp], size: float, n: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """A ball's strikes, `wander` of them at random instants, and its noise on either resonance, (2, n)."""
        wander, roughness = rng.uniform(*self.wander), rng.uniform(*self.roughness)
        astray = rng.random(len(at)) < wander
        rolling = np.zeros((2, n), np.float32)
        if roughness:
            rolling = np.float32(size * roughness) * rng.standard_normal((2, n), np.float32)
        return np.where(astray, rng.integers(n, size=len(at)), at), rolling

    def _add_impacts(self, impulses: NDArray[np.float32], rng: np.random.Generator) -> None:
        n = impulses.shape[1]
        count = int(rng.poisson(self.impacts * n / SAMPLE_RATE))
        smallest, largest = np.log(self.impact_size)
        sizes = np.exp(rng.uniform(smallest, largest, count))
        np.add.at(impulses, (rng.integers(2, size=count), rng.integers(n, size=count)), sizes.astype(np.float32))

    def _tones(self, turns: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
        """What is periodic: the shaft, loose feet, gears and hum, (n,)."""
        phases = iter(rng.uniform(size=HALF_ORDERS + 6))
        first = _cosine(turns)
        double = 2 * first**2 - 1
        tones = 0.2 * first + np.float32(0.1 * self.load) * double
        tones += 0.05 * first * (2 * double - 1)  # cos 3φ = cos φ (2 cos 2φ − 1)
        for k in range(1, HALF_ORDERS + 1):
            phase = next(phases)
            if self.looseness:
                tones += np.float32(self.looseness / k) * _cosine(k / 2 * turns + phase)
        for harmonic in (1, 2, 3):
            phase = next(phases)
            mesh = harmonic * self.teeth
            if self.gear and (mesh + 1) * self.shaft < SAMPLE_RATE / 2:  # else it would fold back
                swell = 1 + np.float32(self.sidebands) * first
                tones += np.float32(self.gear / harmonic) * swell * _cosine(mesh * turns + phase)
        for harmonic, amplitude in ((1, 0.3), (2, 1.0), (4, 0.3)):  # iron is pulled twice a period
            phase = next(phases)
            if self.hum:
                periods = harmonic * self.mains / SAMPLE_RATE * np.arange(len(turns))
                tones += np.float32(self.hum * amplitude) * _cosine(periods + phase)
        return tones

    def _ring(self, force: NDArray[np.float32], resonance: float) -> NDArray[np.float32]:
        """Response of a damped oscillator to a force: exp(−ζωt) sin(ω√(1 − ζ²) t) to a unit impulse."""
        step = 2 * np.pi * resonance / SAMPLE_RATE
        decay, turn = math.exp(-self.damping * step), step * math.sqrt(1 - self.damping**2)
        return _filtered([0, decay * math.sin(turn)], [1, -2 * decay * math.cos(turn), decay**2], force)

    def _sense(self, vibration: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sensor's gain and colouring."""
        from scipy import fft

        size = fft.next_fast_len(len(vibration), real=True)
        spectrum = fft.rfft(vibration, size)
        x = np.linspace(0, np.pi, len(spectrum), dtype=np.float32)
        log_amplitude = sum(np.float32(c) * np.cos((k + 1) * x) for k, c in enumerate(self.colour))
        sensed = fft.irfft(spectrum * (np.float32(self.gain) * np.exp(log_amplitude)), size)
        return np.array(sensed[: len(vibration)], np.float32)


def load_at(angle: NDArray[np.float64], load_zone: float) -> NDArray[np.float64]:
    """The load at an angle from the middle of the load zone, as a share of the load there: 1 − (1 − cos θ) / 2ε.

    None outside the zone. (Stribeck; McFadden and Smith 1984, equation 4, with an exponent of 1.)

    Args:
        angle: radians.
        load_zone: the load distribution factor ε, above 0.
    """
    return np.maximum(0.0, 1 - (1 - np.cos(angle)) / (2 * load_zone))


def _cosine(periods: NDArray[np.float64]) -> NDArray[np.float32]:
    """The cosine of an angle in periods, any number of them, in single precision."""
    return np.cos(2 * np.pi * (periods - np.floor(periods)), dtype=np.float32, casting="same_kind")


def _through_structure(vibration: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of a vibration after its way through a structure: a low-pass of first order."""
    kept = math.exp(-2 * np.pi * STRUCTURE / SAMPLE_RATE)
    return _filtered([1 - kept], [1, -kept], vibration)


def _filtered(numerator: list[float], denominator: list[float], x: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.signal import lfilter

    y: NDArray[np.float32] = lfilter(np.array(numerator, np.float32), np.array(denominator, np.float32), x)
    return y
