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
EVENTS = {
    "sleep 5\nfor": "until (exec 3<> /dev/tcp/127.0.0.1/18830) 2> /dev/null; do sleep 0.1; done\nfor",
    "sleep 5    ": 'until [ "$(grep -c "^recording " output)" = 3 ]; do sleep 0.1; done    ',
    "--speed 4": "--speed 1 --seconds_per_state 2",
    "configs/live.yaml  ": "configs/live.yaml --trainer.max_steps 6 --trainer.check_val_every_n_epoch 3"
    " --model.quorum 3 --model.max_wait 900 --data.init_args.episodes.ways 4  ",
    "sleep 2;": "wait %5; python all_recorded.py;",
}
"""What the README waits for by the clock, waited for by the event; fewer rounds, and plants that take less of the
processor. Every round begins when each site has windows of all four classes."""

ALL_RECORDED = r"""
import re, time
from pathlib import Path
from fml_lightning.connectors import SpoolReader

published = int(re.findall(r"published (\d+) messages", Path("output").read_text())[0])
readers = [SpoolReader(Path("spools") / site) for site in ("plant1", "plant2", "plant3")]
recorded = 0
while recorded < published:
    recorded += sum(len(frame) for reader in readers for frame in reader.read())
    time.sleep(0.1)
"""
"""Waits until what the plants have published is durable."""


def _block(language: str) -> str:
    return str(re.findall(rf"```{language}\n(.*?)```", _LIVE, re.DOTALL)[0])


def test_sites_federate_over_live_spools_while_they_fill(
    tmp_path: Path, start_broker: Callable[..., Broker]
) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    script = _block("bash")
    for clock, event in EVENTS.items():
        assert clock in script
        script = script.replace(clock, event)
    script = script.replace("18830", str(free_port("127.0.0.1")))
    (tmp_path / "all_recorded.py").write_text(ALL_RECORDED)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (tmp_path / "output").open("a") as output_file:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            stdout=output_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        process.wait(timeout=1800)  # only so that a fault does not hang the suite
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    output = (tmp_path / "output").read_text()
    assert "Traceback" not in output, output
    fit = json.loads((tmp_path / "runs/live/1/fit.json").read_text())
    assert fit["rounds"] == 6
    assert fit["val/sites"] == 3
    assert [machine["machine"] for machine in fit["machines"]] == ["plant3-machine4"]
    card = json.loads((tmp_path / "runs/live/1/personalize.json").read_text())
    assert card["machine"] == "plant3-machine4"
    # Four classes: chance is 0.25. Six rounds are few, but more than none.
    assert card["after"] > 0.4, output
    acknowledged = int(re.findall(r"published (\d+) messages, \1 acknowledged", output)[0])
    recorded = [int(count) for count in re.findall(r"recorded (\d+) messages; 0 dead letters", output)]
    assert sum(recorded) == acknowledged, output
    for site in ("plant1", "plant2", "plant3"):
        batches = list(SpoolSource(tmp_path / "spools" / site).new())
        assert {name for batch in batches for name in batch.readings["site"]} == {site}


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
