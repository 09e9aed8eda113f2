"""The README's live chain, as a reader would paste it; only shorter, and at a free port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chromium import PROGRAM, chromium
from fml_lightning.connectors import SpoolSource
from fml_lightning.connectors.broker.broker import Broker

REPOSITORY = Path(__file__).parent.parent
_, _LIVE = (REPOSITORY / "README.md").read_text().split("## Live, over MQTT")
_LIVE = _LIVE.split("\n## ")[0]
SHORTER = {
    "--speed 4 --seconds 1080 --labelled_for 96 --onset 420 --growth 60": "--speed 10 --seconds 430"
    " --seconds_per_state 2 --labelled_for 24 --onset 240 --growth 30",
    "live.yaml  ": "live.yaml --trainer.max_steps 15 --trainer.check_val_every_n_epoch 15"
    " --model.quorum 3 --model.max_wait 900 --data.init_args.episodes.ways 4  ",
    "--drift.baseline 3min": "--drift.baseline 3min --drift.confirm 2 --alarm.off_delay 10s",
    "sleep 15;": "python ../../all_recorded.py;",
}
"""Less data and fewer rounds; and what the README waits for by the clock, waited for by the event. Every round
begins when each site has windows of all four classes."""

ALL_RECORDED = r"""
import re, time
from pathlib import Path
from fml_lightning.connectors import SpoolReader

published = int(re.findall(r"published (\d+) messages", Path("logs/plant.log").read_text())[-1])
readers = [SpoolReader(Path("spools") / site) for site in ("plant1", "plant2", "plant3")]
recorded = 0
while recorded < published:
    recorded += sum(len(frame) for reader in readers for frame in reader.read())
    time.sleep(0.1)
while not Path("../../looked_at").exists():
    time.sleep(0.1)
"""
"""Waits until what the plants have published is durable, and the page has been looked at."""
SICK, DRIFTING = "plant3-machine2", "plant3-machine3"


def _block(language: str) -> str:
    return str(re.findall(rf"```{language}\n(.*?)```", _LIVE, re.DOTALL)[0])


def _look_at_the_page(output: Path, process: subprocess.Popen[bytes]) -> None:
    """See the growing fault and the drifting sensor on the page, while the chain runs."""

    def until(seen: Callable[[], Any]) -> Any:
        while not (found := seen()):
            assert process.poll() is None, output.read_text()
            time.sleep(0.2)
        return found

    address = until(lambda: re.search(r"the page is at (\S+)\n", output.read_text()))[1]
    with chromium() as browser:
        browser.open(address)
        words = (
            "Object.fromEntries([...document.querySelectorAll('.tile')].map((tile) =>"
            " [tile.querySelector('.machine').textContent, tile.querySelector('.word').textContent]))"
        )
        until(
            lambda: {SICK: "Failure", DRIFTING: "Out of specification"}.items() <= browser.evaluate(words).items()
        )
        assert len(browser.evaluate(words)) == 12
        assert browser.evaluate("document.querySelector('.machine').textContent") == SICK  # the worst
        browser.evaluate("document.querySelector('.link').click()")
        browser.wait("document.querySelectorAll('canvas').length === 2")
        seen = browser.evaluate("document.getElementById('machine').innerText")
        for part in (SICK, "Failure", "raised", "against the machine when healthy", "Acknowledge the alarm"):
            assert part in seen
        assert browser.complaints == []
        assert {request.partition("//")[2].partition("/")[0] for request in browser.requests} == {
            address.partition("//")[2].strip("/")
        }


@pytest.mark.long
def test_the_chain_from_broker_to_watch(tmp_path: Path, start_broker: Callable[..., Broker]) -> None:
    """Needs `start_broker` only to be skipped where there is no mosquitto."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "inside").mkdir()
    script = _block("bash")
    for long, short in SHORTER.items():
        assert long in script
        script = script.replace(long, short)
    (tmp_path / "all_recorded.py").write_text(ALL_RECORDED)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (tmp_path / "output").open("a") as output_file:
        process = subprocess.Popen(
            ["sh", "-c", script],  # any shell
            cwd=tmp_path / "inside",
            env=environment,
            stdout=output_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if PROGRAM is not None:
            _look_at_the_page(tmp_path / "output", process)
        (tmp_path / "looked_at").touch()
        process.wait(timeout=1800)  # only so that a fault does not hang the suite
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    output = (tmp_path / "output").read_text()
    assert process.returncode == 0, output
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing that it started is left
    (folder,) = (tmp_path / "runs").iterdir()
    logs = {path.stem: path.read_text() for path in (folder / "logs").iterdir()}
    assert "Traceback" not in output + "".join(logs.values()), output
    fit = json.loads((folder / "runs/live/1/fit.json").read_text())
    assert fit["rounds"] == 15
    assert fit["val/sites"] == 3
    acknowledged = int(re.findall(r"published (\d+) messages, \1 acknowledged", logs["plant"])[0])
    sites = ("plant1", "plant2", "plant3")
    recorded = [re.findall(r"recorded (\d+) messages; 0 dead letters", logs[f"record-{site}"]) for site in sites]
    assert sum(int(count) for (count,) in recorded) == acknowledged, logs
    for site in sites:
        batches = list(SpoolSource(folder / "spools" / site).new())
        assert {name for batch in batches for name in batch.readings["site"]} == {site}
    row = r"plant\d/(plant\d-machine\d) +([A-Z_]+) +(?:\S+ \S+ )? +(.*)"
    ended = re.findall(row, output.split("how it ended:\n")[1])
    health = {machine: f"{word}: {why}" for machine, word, why in ended}
    assert len(health) == 12
    assert health[SICK].startswith("FAILURE: outer"), output
    assert health[DRIFTING].startswith("OFF_SPEC: the sensor of channel 1 is -6."), output
    for machine, word in health.items():
        if machine not in (SICK, DRIFTING, "plant3-machine4"):
            assert word.startswith("CHECK_FUNCTION: no model watches it; make one with fml personalize "), output
    # Nothing has happened to the last one; its model may be refused, after so few rounds.
    assert health["plant3-machine4"].split()[0].strip(":") in ("NORMAL", "CHECK_FUNCTION"), output


def test_the_python_of_the_live_chapter_runs(tmp_path: Path, broker: Broker) -> None:
    login = "server.recorder"
    user = (
        f'Connection("127.0.0.1", {broker.port}, {broker.username(login)!r}, {str(broker.password_file(login))!r})'
    )
    code = (
        _block("python").replace('Connection("127.0.0.1")', user).replace("spools/north", str(tmp_path / "spool"))
    )
    code = code.replace("print(batch.readings)", "seen.append(batch.readings); readings.stop()")
    publish = ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-u", "server", "-q", "1"]
    publish += ["-P", broker.passwords["server"], "-t", "plant/north/pump/flow", "-m", '{"time": 1, "value": 2.5}']
    names: dict[str, Any] = {"seen": []}
    stopped = threading.Event()

    def publish_until_stopped() -> None:
        """Nobody tells from when on the source listens."""
        while not stopped.wait(0.2):
            subprocess.run(publish, check=True)

    thread = threading.Thread(target=publish_until_stopped)
    thread.start()
    try:
        exec(compile(code, "README.md", "exec"), names)
    finally:
        stopped.set()
        thread.join()
    (row,) = names["seen"][0].head(1).to_dicts()
    assert (row["site"], row["machine"], row["channel"], row["values"]) == ("north", "pump", "flow", [2.5])
