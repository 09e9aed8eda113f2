"""`fml watch`, `fml ack` and `fml shelve` as one runs them."""

from __future__ import annotations

import itertools
import re
import signal as signals
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from probes import LONG, until
from test_watch import HEALTHY, SICK, changes, scored, story
from watched import BEGIN, LENGTH, SECOND, SITE, give_models, in_time, messages, record, signal

from fml_lightning.__main__ import run_command
from fml_lightning.commands.model_maker import ModelMaker
from fml_lightning.errors import UserError
from fml_lightning.live import table
from fml_lightning.live.attempt import iso
from fml_lightning.live.board import MachineView
from fml_lightning.live.table import Table, rows
from fml_lightning.names import columns

CONFIG = """
spools: {{plant: {spool}}}
alarm: {{raise: 0.8, clear: 0.3, mean: 1s, on_delay: 2s, off_delay: 3s, stale: 60s, latch: false}}
drift: {{baseline: 20min, confirm: 3}}
repersonalize: ask
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    give_models(tmp_path, "a")
    record(tmp_path / "spool", in_time(story("a", (4, HEALTHY), (6, SICK)), story("b", (3, HEALTHY))))
    path = tmp_path / "watch.yaml"
    path.write_text(CONFIG.format(spool=tmp_path / "spool"))
    return path


def test_once_acknowledged_and_shelved(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(config.parent)
    assert run_command("watch", [run, "--config", str(config), "--once"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\nplant/a +FAILURE +01-15 \S+ +outer \(\d+%\) .* v1\n", out)
    assert re.search(r"\nplant/b +CHECK_FUNCTION .* no model watches it; make one with fml personalize ", out)
    assert "\x1b" not in out
    assert len(scored(config.parent)) == 40
    assert run_command("ack", [run, "a"]) == 0
    assert run_command("shelve", [run, "plant/a", "8h", "bearing is ordered"]) == 0
    assert re.search(r"plant/a: its alarms are shelved for 8h, until \d{4}-\d\d-\d\d ", capsys.readouterr().out)
    assert run_command("watch", [run, "--config", str(config), "--once"]) == 0
    shelved = (
        r"plant/a +CHECK_FUNCTION .* outer( \(\d+%\))?; shelved until .* UTC: bearing is ordered, acknowledged "
    )
    assert re.search(shelved, capsys.readouterr().out)
    assert [what for _, _, what, _ in changes(config.parent)["a"]] == ["raised", "acknowledged", "shelved"]
    assert len(scored(config.parent)) == 40


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("watch", ["nowhere", "--spools.plant", "spool"], "nowhere: expected the folder of a run"),
        ("watch", [".", "--spools.plant", "nospool", "--once"], "spools.plant: there is no spool in nospool"),
        ("watch", [".", "--spools.plant", "spool", "--alarm.raise", "0.2"], "expected 0 < clear < raise <= 1"),
        (
            "watch",
            [".", "--spools.plant", "spool", "--alarm.stale", "0"],
            "alarm.stale: expected a time above 0 s",
        ),
        (
            "watch",
            [".", "--spools.plant", "spool", "--drift.baseline", "1s"],
            "drift.baseline: expected at least 180",
        ),
        ("watch", [".", "--spools.plant", "spool", "--http", "8080", "--http_host", "0.0.0.0"], "needs a token"),
        ("ack", [".", "a"], "nothing was watched here; start fml watch first"),
        (
            "watch",
            [".", "--spools.plant", "spool", "--alarm.mean", "1 week"],
            "alarm.mean: expected a duration such",
        ),
        ("shelve", ["nowhere", "a", "8h", "why"], "nowhere: expected the folder of a run"),
        (
            "watch",
            [".", "--spools.plant", "spool", "--repersonalize", "auto"],
            "and there is neither config.yaml nor site.json in .; watch such a folder, or set repersonalize: ask",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    command: str,
    arguments: list[str],
    sentence: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(config.parent)
    assert run_command(command, arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("fml: error: ")
    assert error.count("\n") == 1
    assert sentence in error


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("alarm: 3", "alarm: expected settings by name, got 3"),
        ("alarm:", "alarm: expected settings by name, got None"),
        ("drift: [1]", "drift: expected settings by name, got [1]"),
        ("publish: yes", "publish: expected settings by name, got True"),
        ("spools: {3: spool}", "spools: expected names, got 3, which YAML takes for none; put it in quotes"),
        ("aliases: {3: pump}", "aliases: expected names, got 3, which YAML takes for none; put it in quotes"),
        ("spools: {plant: }", "spools: expected str or LiveSpool, got None"),
        ("aliases:", "aliases: expected a value, got none; set one, or leave it out for the usual one"),
        ("alarm: {raise: }", "alarm.raise: expected a value, got none"),
        ("drift: {confirm: null}", "drift.confirm: expected a value, got none"),
        ("repersonalize: ~", "repersonalize: expected a value, got none"),
        ("drift: {confirm: 100000000000000000000}", "drift.confirm: expected 1 to 10,080 blocks, got 100000000"),
        (
            "publish: {topic: 'fml/{machine}'}\nspools: {a: spool, b: spool}",
            "publish.topic: expected a topic with {site}",
        ),
    ],
)
def test_a_config_that_cannot_be_is_one_sentence(
    text: str, sentence: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(config.parent)
    Path("wrong.yaml").write_text(text if "spools" in text else f"spools: {{plant: spool}}\n{text}")
    with pytest.raises(SystemExit) as end:
        sys.exit(run_command("watch", [".", "--config", "wrong.yaml", "--once"]))
    assert end.value.code in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith(f"fml: error: {sentence}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("ack .", "machine is missing; see --help"),
        ("shelve . a", "time is missing; see --help"),
        ("shelve . a -1h why", "no option -1h; see --help"),
        ("watch --spools.plant spool", "run is missing; see --help"),
    ],
)
def test_what_is_missing_or_too_much_is_named_as_it_is_written(
    command: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *arguments = command.split()
    with pytest.raises(SystemExit):
        run_command(name, arguments)
    assert capsys.readouterr().err == f"fml: error: {sentence}\n"


def test_a_site_of_another_name_than_its_messages_have_is_told(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, spool = str(config.parent), str(config.parent / "spool")
    for site, told in (("plant", False), ("plnt", True)):
        assert run_command("watch", [run, "--spools", f"{{{site}: {spool}}}", "--once"]) == told
        assert ("its readings are of plant, and none is of plnt; name the site" in caplog.text) is told


def test_without_stdout_it_watches(config: Path) -> None:
    command = f"{sys.executable} -m fml_lightning watch {config.parent} --config {config} --once >&-"
    assert subprocess.run(["bash", "-c", command], timeout=LONG, check=False).returncode == 0
    assert len(scored(config.parent)) == 40


def test_without_a_broker_nothing_is_lost_and_it_is_said(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fml_lightning.commands.watch.FLUSH", 0.5)
    publish = ["--publish.topic", "fml/{machine}", "--connection.port", "1"]  # which nobody is given meanwhile
    assert run_command("watch", [str(config.parent), "--config", str(config), "--once", *publish]) == 1
    error = capsys.readouterr().err
    assert error.startswith("fml: error: health is not published: no connection with the broker 127.0.0.1:1 ")
    assert len(scored(config.parent)) == 40


def test_names_and_times_that_are_wrong(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(config.parent)
    assert run_command("watch", [run, "--config", str(config), "--once"]) == 0
    for command, arguments, sentence in [
        ("ack", [run, "x"], "machine x: expected a machine that is watched, there are plant/a, plant/b"),
        ("ack", [run, "b"], "plant/b: it has no alarm to acknowledge"),
        ("shelve", [run, "a", "8h"], "plant/a: expected a reason to shelve its alarms, got none"),
        ("shelve", [run, "a", "9d", "why"], "expected to shelve for more than 0 s and at most 7 days"),
        (
            "shelve",
            [run, "a", "8", "hours"],
            "time: expected a duration with its unit, such as 8h or 30min, got 8",
        ),
        ("shelve", [run, "a", "8 weeks", "why"], "time: expected a duration such as 500ms, 5s, 20min, 8h or 2d"),
    ]:
        assert run_command(command, arguments) == 1
        assert sentence in capsys.readouterr().err


def test_it_runs_beside_a_recorder_and_serves_the_page(config: Path) -> None:
    """As a process: it follows what is recorded, refuses a second one, and ends in good order."""
    run = config.parent
    (run / "out").touch()
    command = [sys.executable, "-m", "fml_lightning", "watch", str(run), "--config", str(config), "--http", "0"]
    command += ["--http_names", "[watch.plant.example]"]
    with (run / "out").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        until(lambda: process.poll() is not None or "plant/a FAILURE" in (run / "out").read_text())
        assert process.poll() is None, (run / "out").read_text()
        url = re.search(r"http://\S+", (run / "out").read_text())
        assert url is not None
        for name in ("localhost", "watch.plant.example"):
            with urllib.request.urlopen(urllib.request.Request(url[0], headers={"Host": name})) as answer:
                assert answer.status == 200
        assert run_command("watch", [str(run), "--config", str(config)]) == 1
        more = story("a", (4, HEALTHY), (6, SICK), (8, HEALTHY))[40:]
        record(run / "spool", more)
        until(lambda: "plant/a NORMAL" in (run / "out").read_text())
        process.send_signal(signals.SIGTERM)
        assert process.wait(LONG) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (run / "out").read_text()
    assert len(scored(run)) == 72


def test_the_last_state_is_left_standing_however_soon_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "INTERVAL", 1e6)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    view = MachineView(SITE, "a", "NORMAL", "", 0, "", None, 0.0, (), 0, "v1", "normal", None, False, None, "")
    seen = [view]
    board: Any = SimpleNamespace(views=lambda: seen)
    with Table() as shown:
        shown.show(board, [])
        seen[0] = msgspec.structs.replace(view, health="FAILURE", reason="outer")
        shown.show(board, [])
        assert "FAILURE" not in capsys.readouterr().out
    assert "FAILURE" in capsys.readouterr().out


def test_lines_of_changes_are_looked_for_once_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has changed within a second is told by its end, or as the watch ends."""
    view = MachineView(SITE, "a", "NORMAL", "", 0, "", None, 0.0, (), 0, "v1", "normal", None, False, None, "")
    looks, revisions, now = [], itertools.count(), 100.0

    def views() -> list[MachineView]:
        looks.append(now)
        return [msgspec.structs.replace(view, version=f"v{len(looks)}")]

    monkeypatch.setattr("fml_lightning.live.table.time.monotonic", lambda: now)
    board: Any = SimpleNamespace(views=views, wait=lambda *_: next(revisions))
    with Table() as shown:
        for each in np.arange(100.0, 102.5, 0.03).tolist():
            now = each
            shown.show(board, [])
    assert len(looks) == 4
    assert [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "(v1)",
        "(v2)",
        "(v3)",
        "(v4)",
    ]


def test_lines_of_changes_keep_nothing_of_machines_that_are_forgotten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "INTERVAL", 0.0)
    view = MachineView(SITE, "", "NORMAL", "", 0, "", None, 0.0, (), 0, "v1", "normal", None, False, None, "")
    seen: list[MachineView] = []
    revisions = itertools.count()
    board: Any = SimpleNamespace(views=lambda: seen, wait=lambda *_: next(revisions))
    shown = Table()
    for hour in range(20):
        seen[:] = [msgspec.structs.replace(view, machine=name) for name in (f"pump-{hour}", "steady")]
        shown.show(board, [])
    assert len(shown._last) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert sum("plant/steady" in line for line in lines) == 1


def test_the_table_fits_its_terminal_and_says_whom_it_leaves_out() -> None:
    def view(name: str, health: str, reason: str) -> MachineView:
        trend = tuple((i, i / 20) for i in range(20))
        return MachineView(
            SITE, name, health, reason, 0, "outer", 0.97, 0.9, trend, 1_000_000, "v3", "firing", 0, False, None, ""
        )

    views = [view(f"pump\x1b[2J{i}泵", "FAILURE", "outer race " * 9) for i in range(30)]
    wide = rows([view("泵" * 40, "FAILURE", "轴承" * 40)], ["磁盘已满" * 40], 60, 20, 61.0)
    assert max(columns(re.sub(r"\x1b\[\d+m", "", line)) for line in wide) < 60
    for width in (60, 80, 100, 120):
        text = rows(views, ["the disk is full"], width, 20, 61.0)
        assert len(text) <= 20
        plain = [re.sub(r"\x1b\[\d+m", "", line) for line in text]
        assert all(columns(line) < width for line in plain)
        assert "\x1b[2J" not in "".join(text)
        assert plain[-2:] == ["and 13 more machines", "the disk is full"]
        assert ("since" in plain[0], "trend" in plain[0]) == (width >= 100, width == 120)
        assert "outer (97%) race" in plain[1]
    assert "1 min ago" in rows(views[:1], [], 160, 20, 62.0)[1]
    silent = msgspec.structs.replace(views[0], last_data=None)
    unwatched = msgspec.structs.replace(silent, version="")
    assert ["never" in row for row in rows([silent, unwatched], [], 160, 20, 62.0)[1:]] == [True, False]
    assert "not scored" in rows([unwatched], [], 160, 20, 62.0)[1]


@pytest.mark.parametrize(
    ("folder", "content", "has_checkpoint", "problem"),
    [
        (
            "runs/own/1",
            "data: {class_path: fml_lightning.datamodules.SpoolFleet}",
            False,
            "there is no runs/own/1/che",
        ),
        ("runs/own/1", "data: {class_path: fml_lightning.datamodules.SimulatedFleet}", True, "are no SpoolFleet"),
        ("runs/own/1", "data: {class_path: nobody.Knows}", True, "are no SpoolFleet"),
        ("runs/own/1", "data:", True, "are no SpoolFleet"),
        ("runs/own/1", "[", True, "runs/own/1/config.yaml cannot be read"),
        (
            "kept",
            "data: {class_path: fml_lightning.datamodules.SpoolFleet}",
            True,
            "a run's folder is called by a num",
        ),
    ],
)
def test_a_run_of_which_no_models_can_be_made_is_refused_at_the_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    content: str,
    has_checkpoint: bool,
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(folder, "checkpoints").mkdir(parents=True)
    Path(folder, "config.yaml").write_text(content)
    if has_checkpoint:
        Path(folder, "checkpoints/last.ckpt").touch()
    with pytest.raises(UserError, match=problem):
        ModelMaker.of(Path(folder)).process()


def test_what_is_asked_for_names_the_run_the_machine_and_since_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one command to paste: a sensor that loses its gain, of a run that keeps its configuration."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/my run/1")
    give_models(folder, "a")
    (folder / "config.yaml").touch()
    values = [signal(200), signal(300, seed=1, gain=0.1)]
    record(tmp_path / "spool", messages(np.concatenate(values), "a", block=4 * LENGTH))
    watch = ["--spools.plant", "spool", "--drift.baseline", "180s", "--once"]
    assert run_command("watch", [str(folder), *watch]) == 0
    assert (
        "at all frequencies alike; if this is its new normal, label it, and then: fml personalize --config"
        f" 'runs/my run/1/config.yaml' --machine plant/a --data.since {iso(BEGIN + 180 * SECOND)}"
    ) in capsys.readouterr().out
