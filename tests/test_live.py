"""The README's live chain, as a reader would paste it; only shorter, and at a free port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fml_lightning.connectors import SpoolSource
from fml_lightning.connectors.broker.broker import Broker, free_port

REPOSITORY = Path(__file__).parent.parent
_, _LIVE = (REPOSITORY / "README.md").read_text().split("## Live, over MQTT")
_LIVE = _LIVE.split("\n## ")[0]
SHORTER = {"--speed 4": "--speed 8", "configs/live.yaml  ": "configs/live.yaml --trainer.max_steps 12  "}


def _block(language: str) -> str:
    return str(re.findall(rf"```{language}\n(.*?)```", _LIVE, re.DOTALL)[0])


def test_sites_federate_over_live_spools_while_they_fill(
    tmp_path: Path, start_broker: Callable[..., Broker]
) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    script = _block("bash").replace("18830", str(free_port("127.0.0.1")))
    for long, short in SHORTER.items():
        assert long in script
        script = script.replace(long, short)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=180)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in output, output
    fit = json.loads((tmp_path / "runs/live/1/fit.json").read_text())
    assert fit["rounds"] == 12
    assert fit["val/sites"] == 3
    assert [machine["machine"] for machine in fit["machines"]] == ["plant3-machine4"]
    card = json.loads((tmp_path / "runs/live/1/personalize.json").read_text())
    assert card["machine"] == "plant3-machine4"
    # Four classes: chance is 0.25. Twelve rounds are few, but more than none.
    assert card["after"] > 0.4, output
    acknowledged = int(re.findall(r"published (\d+) messages, \1 acknowledged", output)[0])
    recorded = [int(count) for count in re.findall(r"recorded (\d+) messages; 0 dead letters", output)]
    assert sum(recorded) == acknowledged, output
    for site in ("plant1", "plant2", "plant3"):
        batches = list(SpoolSource(tmp_path / "spools" / site).new())
        assert {name for batch in batches for name in batch.readings["site"]} == {site}


def test_the_python_of_the_live_chapter_runs(tmp_path: Path, broker: Broker) -> None:
    user = f'Connection("127.0.0.1", {broker.port}, "server", {str(broker.password_file("server"))!r})'
    code = (
        _block("python").replace('Connection("127.0.0.1")', user).replace("spools/north", str(tmp_path / "spool"))
    )
    code = code.replace("print(batch.readings)", "seen.append(batch.readings); readings.stop()")
    publish = ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-u", "server", "-q", "1"]
    publish += ["-P", broker.passwords["server"], "-t", "plant/north/pump/flow", "-m", '{"time": 1, "value": 2.5}']
    names: dict[str, Any] = {"seen": []}
    timers = [threading.Timer(seconds, subprocess.run, [publish]) for seconds in (0.5, 2.0)]  # once we are there
    for timer in timers:
        timer.start()
    exec(compile(code, "README.md", "exec"), names)
    for timer in timers:
        timer.join()
    (row,) = names["seen"][0].head(1).to_dicts()
    assert (row["site"], row["machine"], row["channel"], row["values"]) == ("north", "pump", "flow", [2.5])
