"""A plausible board on the page, to look at, and pictures of it or of a page that runs.

    python -m benchmarks.page                      # serve it until Ctrl+C
    python -m benchmarks.page --machines 1000      # as many
    python -m benchmarks.page --pictures FOLDER    # write page.png and page_machine.png there (needs chromium)
    python -m benchmarks.page --pictures docs --of http://127.0.0.1:8080/    # the README's, while its chain runs

Signals come from the simulated plant and spectra from these signals; the scores are drawn: no model is at work.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from fml_lightning.connectors.plant.simulated_machine import SAMPLE_RATE, SimulatedMachine
from fml_lightning.errors import UserError
from fml_lightning.live.board import MachineDetail, MachineView
from fml_lightning.live.event import Event
from fml_lightning.live.page import Page

MINUTE = 60_000_000
RAISE, CLEAR = 0.8, 0.3
WORST_FIRST = ("FAILURE", "MAINTENANCE_REQUIRED", "OFF_SPEC", "CHECK_FUNCTION", "NORMAL")
FIRST = (
    ("Press 4 main drive", "plant3", "outer", "FAILURE"),
    ("Mill fan", "plant1", "inner", "SHELVED"),
    ("Pump 7", "plant2", "", "CHECK_FUNCTION"),
    ("Extruder 2", "plant3", "", "OFF_SPEC"),
    ("Conveyor 11", "plant1", "ball", "MAINTENANCE_REQUIRED"),
    ("Compressor B", "plant2", "", "NO_MODEL"),
)
"""Machine, site, fault and health of those that are not well; the others are."""


@dataclass
class PlausibleBoard:
    """Machines whose states are told here once."""

    count: int = 20
    now: int = field(default_factory=lambda: time.time_ns() // 1000)

    def __post_init__(self) -> None:
        self._lock = threading.Condition()
        self._revision = 0
        told = list(FIRST[: self.count])
        kinds = ("Pump", "Fan", "Conveyor", "Gearbox", "Spindle")
        told += [
            (f"{kinds[i % 5]} {i + 20}", f"plant{1 + i % 3}", "", "NORMAL") for i in range(len(told), self.count)
        ]
        self._faults = {(site, machine): fault for machine, site, fault, _ in told}
        views = [self._view(i, *one) for i, one in enumerate(told)]
        views.sort(key=lambda view: WORST_FIRST.index(view.health))
        self._views = {(view.site, view.machine): view for view in views}

    def problems(self) -> list[str]:
        """None."""
        return []

    def views(self) -> list[MachineView]:
        """All machines, worst first."""
        return list(self._views.values())

    def detail(self, site: str, machine: str) -> MachineDetail | None:
        """One machine's own view."""
        view = self._views.get((site, machine))
        if view is None:
            return None
        rng = np.random.default_rng(len(machine))
        simulated = SimulatedMachine.draw(rng)
        fault = self._faults[site, machine]
        frequencies, spectrum = _envelope_spectrum(simulated, fault or "normal", rng)
        _, baseline = _envelope_spectrum(simulated, "normal", rng)
        bearing, shaft = simulated.bearing, simulated.shaft
        alarms = [Event(1, self.now - 3000 * MINUTE, "raised", "ball")]
        alarms.append(Event(2, self.now - 2900 * MINUTE, "acknowledged", "by M. Weber (page, 10.0.0.17)"))
        alarms.append(Event(3, self.now - 2800 * MINUTE, "cleared", ""))
        if view.alarm == "firing":
            alarms.append(Event(4, view.last_alarm or 0, "raised", view.reason))
        return MachineDetail(
            view=view,
            scores=self._scores(len(machine), "FAILURE" if view.alarm == "firing" else view.health, 1500),
            frequencies=tuple(frequencies),
            spectrum=tuple(spectrum),
            baseline=tuple(baseline),
            fault_lines=(
                ("FTF", bearing.ftf * shaft),
                ("BSF", bearing.bsf * shaft),
                ("BPFO", bearing.bpfo * shaft),
                ("BPFI", bearing.bpfi * shaft),
            ),
            alarms=tuple(reversed(alarms)),
        )

    def acknowledge(self, site: str, machine: str, who: str) -> None:
        """Say that somebody knows."""
        self._change(site, machine, acknowledged=True)

    def shelve(self, site: str, machine: str, seconds: float, reason: str, who: str) -> None:
        """Keep alarms from being told."""
        until = time.time_ns() // 1000 + int(seconds * 1e6) if seconds else None
        self._change(site, machine, shelved_until=until, shelved_reason=reason)

    def wait(self, revision: int, timeout: float) -> int:
        """Wait for a newer revision."""
        with self._lock:
            self._lock.wait_for(lambda: self._revision != revision, timeout)
            return self._revision

    def _change(self, site: str, machine: str, **changes: object) -> None:
        with self._lock:
            if (site, machine) not in self._views:
                raise UserError(f"there is no machine {site}/{machine}")
            self._views[site, machine] = msgspec.structs.replace(self._views[site, machine], **changes)
            self._revision += 1
            self._lock.notify_all()

    def _view(self, i: int, machine: str, site: str, fault: str, health: str) -> MachineView:
        firing, modelled = health in ("FAILURE", "SHELVED"), health != "NO_MODEL"
        scores = self._scores(i, health, 120) if modelled else ()
        since = {"FAILURE": 38, "SHELVED": 47, "CHECK_FUNCTION": 12, "OFF_SPEC": 190, "MAINTENANCE_REQUIRED": 55}
        reasons = {
            "FAILURE": f"{fault} race, for longer than 5 s",
            "CHECK_FUNCTION": "no data for more than 60 s",
            "OFF_SPEC": "the signal has become 4.1 dB weaker in all bands: the sensor drifts",
            "MAINTENANCE_REQUIRED": "ball is over, and the alarm not yet cleared",
            "SHELVED": f"{fault} race; shelved: bearing ordered, spare runs",
            "NO_MODEL": "no model watches it; make one with fml personalize",
        }
        start = self.now - since.get(health, 1500 + 37 * i) * MINUTE
        silent = 12 * MINUTE if health == "CHECK_FUNCTION" else 0
        return MachineView(
            site=site,
            machine=machine,
            health="CHECK_FUNCTION" if health in ("NO_MODEL", "SHELVED") else health,
            reason=reasons.get(health, ""),
            since=start,
            fault=fault,
            confidence=0.94 - 0.07 * i if fault else None,
            score=scores[-1][1] if scores else None,
            trend=tuple((at - silent, score) for at, score in scores),
            last_data=self.now - silent,
            version=f"v{1 + i % 3}" if modelled else "",
            alarm="firing" if firing else "recovering" if health == "MAINTENANCE_REQUIRED" else "normal",
            last_alarm=start if firing or fault else self.now - 3000 * MINUTE if i % 4 == 0 and modelled else None,
            acknowledged=not firing or i == 1,
            shelved_until=self.now + 300 * MINUTE if i == 1 else None,
            shelved_reason="bearing ordered, spare runs" if i == 1 else "",
        )

    def _scores(self, seed: int, health: str, count: int) -> tuple[tuple[int, float], ...]:
        rng = np.random.default_rng(seed)
        share = np.linspace(0, 1, count)
        level = {
            "FAILURE": 0.05 + 0.9 / (1 + np.exp(-30 * (share - 0.66))),
            "MAINTENANCE_REQUIRED": 0.05 + 0.85 * np.exp(-(((share - 0.7) / 0.15) ** 4)),
            "OFF_SPEC": 0.05 + 0.15 * share,
        }.get("FAILURE" if health == "SHELVED" else health, np.full(count, 0.05))
        values = np.clip(level + rng.normal(0, 0.02, count), 0, 1)
        times = self.now - ((1 - share) * 120 * MINUTE).astype(int)
        return tuple(zip(times.tolist(), values.tolist(), strict=True))


def _envelope_spectrum(
    machine: SimulatedMachine, fault: str, rng: np.random.Generator
) -> tuple[list[float], list[float]]:
    """Frequencies up to 400 Hz, and dB of the envelope of the first resonance's band, a mean of eight windows."""
    from scipy.signal import butter, hilbert, sosfiltfilt

    low, high = machine.resonances[0] - 500, machine.resonances[0] + 500
    band = butter(4, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
    size = 8192
    windows = machine.run(fault, 8 * size / SAMPLE_RATE + 0.01, rng)[: 8 * size].reshape(8, size)
    envelope = np.abs(hilbert(sosfiltfilt(band, windows)))
    envelope -= envelope.mean(axis=-1, keepdims=True)
    power = (np.abs(np.fft.rfft(envelope * np.hanning(size))) ** 2).mean(axis=0)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    kept = (frequencies > 2) & (frequencies < 400)
    return frequencies[kept].tolist(), (10 * np.log10(power[kept] + 1e-12)).tolist()


def pictures(folder: Path, url: str) -> None:
    """Write a page's overview and the own view of its worst machine as PNG."""
    from benchmarks.chromium import chromium

    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        browser.size(1200, 860)
        browser.open(url)
        browser.wait("document.querySelectorAll('.tile').length")
        browser.picture(folder / "page.png")
        browser.evaluate("location.hash = document.querySelector('.link').getAttribute('href')")
        browser.wait("document.querySelectorAll('canvas').length === 2")
        browser.picture(folder / "page_machine.png", whole=True)


def main() -> None:
    """Serve the board, or write its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--pictures", type=Path, help="write pictures into this folder and end")
    parser.add_argument("--of", metavar="URL", help="of the page that runs there")
    parser.add_argument("--port", type=int, default=8080)
    told = parser.parse_args()
    if told.pictures and told.of:
        pictures(told.pictures, told.of)
        return
    board = PlausibleBoard(told.machines)
    with Page(board, port=0 if told.pictures else told.port, raise_at=RAISE, clear_at=CLEAR) as page:
        if told.pictures:
            pictures(told.pictures, page.url)
            return
        print(f"{page.url}  (Ctrl+C ends it)")
        threading.Event().wait()


if __name__ == "__main__":
    main()
