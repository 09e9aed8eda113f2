"""A simulated rotating machine: a bearing's geometry, its speed, load and faults, and the sensor on it.

The bearing model follows McFadden and Smith, Model for the vibration produced by a single point defect in a
rolling element bearing, Journal of Sound and Vibration 96, 1984, https://doi.org/10.1016/0022-460X(84)90595-9,
with the random slip of Antoni and Randall, Differential diagnosis of gear and bearing faults, Journal of Vibration
and Acoustics 124, 2002, https://doi.org/10.1115/1.1456906.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fml_lightning.bearing import Bearing

SAMPLE_RATE = 12_000.0
CLASSES = ("normal", "ball", "inner", "outer")


# Rounded to 0.01 mm, so that the 6205 and 6203 differ a little from those of `fml_lightning.bearing.TABLE`, which
# are CWRU's; they stay, for measured results rest on the machines that they draw.
BEARINGS = (
    Bearing(9, 7.94 / 39.04),  # 6205
    Bearing(8, 6.75 / 28.50),  # 6203
    Bearing(8, 12.30 / 52.00),  # 6306
    Bearing(9, 9.53 / 46.00),  # 6206
)


@dataclass(frozen=True)
class SimulatedMachine:
    """A machine and the sensor on it."""

    bearing: Bearing
    shaft: float
    """Shaft speed, Hz."""
    load: float
    """Share of full load, 0 to 1."""
    resonances: tuple[float, float]
    """Housing resonances that outer and inner faults ring at, Hz; a ball rings at both."""
    damping: float
    """Damping ratio ζ of both."""
    gain: float
    """Sensor gain; 1 is calibrated."""
    colour: NDArray[np.float64]
    """Cosine coefficients of the sensor's log amplitude response over frequency."""
    noise: float
    """Standard deviation of the background noise, in units of a full-size impulse."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> SimulatedMachine:
        """A machine of a random make, mounting and calibration."""
        first = rng.uniform(1400, 2600)
        return cls(
            bearing=BEARINGS[rng.integers(len(BEARINGS))],
            shaft=rng.uniform(15, 32),
            load=rng.uniform(0.3, 1.0),
            resonances=(first, first * rng.uniform(1.6, 1.9)),
            damping=rng.uniform(0.03, 0.06),
            gain=float(np.exp(rng.normal(0, 0.7))),
            colour=rng.normal(0, 0.6, size=4),
            noise=rng.uniform(0.05, 0.09),
        )

    def told_speed(self, rng: np.random.Generator) -> float:
        """What the plant takes for the shaft's speed, Hz: the true one, without drawing anything."""
        return self.shaft

    def run(
        self,
        fault: str,
        seconds: float,
        rng: np.random.Generator,
        share: float | NDArray[np.float64] = 1.0,
    ) -> NDArray[np.float32]:
        """What the sensor records in `seconds` of running with a fault: (n,), 12 kHz.

        Args:
            fault: one of `CLASSES`.
            seconds: of the recording.
            rng: draws the fault's size and the noise.
            share: of that size which the fault has at each sample, (n,), or throughout.
        """
        n = int(seconds * SAMPLE_RATE)
        time = np.arange(n) / SAMPLE_RATE
        phase = 2 * np.pi * self.shaft * time + rng.uniform(0, 2 * np.pi)
        shaft = 0.2 * np.cos(phase) + 0.1 * self.load * np.cos(2 * phase) + 0.05 * np.cos(3 * phase)
        first, second = self.resonances
        zone = (1 + np.cos(phase)) / 2  # an inner race turns through the load zone once per revolution
        cage = (1 + np.cos(2 * np.pi * (self.bearing.ftf * self.shaft) * time)) / 2
        size = rng.uniform(0.7, 1.3) * (0.5 + self.load / 2)
        if fault == "outer":
            signal = self._ring(self._strikes(self.bearing.bpfo * self.shaft, n, rng), first)
        elif fault == "inner":
            strikes = zone * self._strikes(self.bearing.bpfi * self.shaft, n, rng)
            signal = self._ring(strikes, second)
        elif fault == "ball":
            strikes = cage * self._strikes(2 * self.bearing.bsf * self.shaft, n, rng)
            signal = 0.6 * (self._ring(strikes, first) + self._ring(strikes, second))
        else:
            signal = np.zeros(n)
        background = self.noise * rng.normal(size=n)
        # Even a sound bearing rings a little at its housing's resonances.
        background += (
            0.3 * self.noise * (self._ring(rng.normal(size=n), first) + self._ring(rng.normal(size=n), second))
        )
        return self._sense(shaft + size * share * signal + background)

    def _strikes(self, rate: float, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """A train of impulses at `rate` Hz whose intervals slip by 1 %."""
        intervals = rng.normal(1, 0.01, size=int(n / SAMPLE_RATE * rate * 1.1) + 2) / rate
        at = (np.cumsum(intervals) * SAMPLE_RATE).astype(int)
        train = np.zeros(n)
        train[at[at < n]] = 1.0
        return train

    def _ring(self, force: NDArray[np.float64], resonance: float) -> NDArray[np.float64]:
        """Response of a damped oscillator to a force, scaled to peak near 1 for a unit impulse."""
        from scipy.signal import fftconvolve

        omega = 2 * np.pi * resonance
        time = np.arange(int(5 / (self.damping * omega) * SAMPLE_RATE)) / SAMPLE_RATE
        response = np.exp(-self.damping * omega * time) * np.sin(omega * np.sqrt(1 - self.damping**2) * time)
        ringing: NDArray[np.float64] = fftconvolve(force, response)[: len(force)]
        return ringing

    def _sense(self, vibration: NDArray[np.float64]) -> NDArray[np.float32]:
        """The sensor's gain and colouring."""
        from scipy import fft

        spectrum = fft.rfft(vibration)
        x = np.linspace(0, np.pi, len(spectrum))
        log_amplitude = sum(c * np.cos((k + 1) * x) for k, c in enumerate(self.colour))
        sensed: NDArray[np.float64] = fft.irfft(spectrum * self.gain * np.exp(log_amplitude), len(vibration))
        return sensed.astype(np.float32)
