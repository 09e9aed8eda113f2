"""`fml record`, `replay`, `plant` and `broker` as one runs them at a plant: processes, signals, exit statuses."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fml_lightning.__main__ import LEARNING, main, overview
from fml_lightning.commands import COMMANDS
from fml_lightning.commands.live_line import CLEAR, LiveLine
from fml_lightning.commands.process import stopped_by_signal
from fml_lightning.commands.record import describe
from fml_lightning.connectors import Message, Spool, SpoolSource, Status
from fml_lightning.connectors.broker.broker import Broker, free_port
from tests.probes import LONG, Flood, needs_mosquitto, spooled, until

REPOSITORY = Path(__file__).parent.parent
RECORD = ["record", "--config", str(REPOSITORY / "configs" / "record.yaml")]


WIDTH = 300
"""Columns of a terminal on which the live line need not be cut."""


class Process:
    """`fml ...` with its output in files, so that nobody has to read it meanwhile."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "fml_lightning", *arguments], cwd=folder, stdout=out, stderr=err
            )

    def said(self, text: str) -> bool:
        """Whether it has said so, on stdout or stderr."""
        assert self.popen.poll() is None or text in self.output, self.output
        return text in self.output

    @property
    def output(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and expect a good end."""
        self.popen.send_signal(number)
        assert self.popen.wait(LONG) == 0, self.output
        assert "Traceback" not in self.output


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def run(*arguments: str) -> Process:
        started.append(Process(tmp_path / f"process{len(started)}", *arguments))
        return started[-1]

    yield run
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait()


def at(broker: Broker, user: str = "server") -> list[str]:
    """The options that lead to a broker."""
    options = ["--connection.port", str(broker.port), "--connection.username", broker.username(user)]
    return [*options, "--connection.password_file", str(broker.password_file(user))]


def flood(broker: Broker) -> Flood:
    return Flood(broker.port, "server", broker.passwords["server"])


# fml broker -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_says_where_it_is_and_ends_at_a_signal(
    start: Start, broker: Broker, number: signal.Signals
) -> None:
    port = free_port("127.0.0.1")
    process = start("broker", "--port", str(port), "--users", "[server, plant1]", "--folder", "here")
    until(lambda: process.said("stop it with Ctrl-C"))
    here = process.out.parent / "here"
    names = {login: (here / f"{login}.username").read_text() for login in ("server.recorder", "plant1.recorder")}
    assert process.out.read_text().splitlines() == [
        f"broker at 127.0.0.1:{port}, not encrypted",
        f"  server: username server, password in {here}/server.password",
        f"  server.recorder: username {names['server.recorder']}, password in {here}/server.recorder.password",
        f"  plant1: username plant1, password in {here}/plant1.password",
        f"  plant1.recorder: username {names['plant1.recorder']}, password in {here}/plant1.recorder.password",
        "stop it with Ctrl-C",
    ]
    password = (here / "plant1.password").read_text().strip()
    assert password not in process.output
    with Flood(port, "plant1", password) as line:
        line.publish([("plant/plant1/m/x", b"1")])
        process.end(number)
    assert process.err.read_text() == ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_broker_with_certificates_says_where_they_are(start: Start, broker: Broker) -> None:
    port = free_port("127.0.0.1")
    process = start("broker", "--port", str(port), "--tls", "true", "--require_client_certificate", "true")
    until(lambda: process.said("stop it with Ctrl-C"))
    first, user, recorder, authority, _ = process.out.read_text().splitlines()
    assert recorder.startswith("  server.recorder: certificate and key ")
    assert first == f"broker at 127.0.0.1:{port}, TLS"
    assert user.startswith("  server: certificate and key ")
    named = [*user.split("key ")[1].split(" and "), authority.split("trust: ")[1]]
    assert [Path(file).is_file() for file in named] == [True] * 3
    process.end()


def test_a_port_in_use_is_one_sentence(broker: Broker, tmp_path: Path) -> None:
    status, said = fml_in(tmp_path, "broker", "--port", str(broker.port))
    assert status == 1
    assert f"cannot listen at 127.0.0.1:{broker.port} (Address already in use): end what does" in said


# fml plant, fml record, fml replay --------------------------------------------------------------------------


def test_a_plant_is_recorded_and_replayed(start: Start, broker: Broker, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    record = start(*RECORD, *at(broker, "server.recorder"), "--spool", str(one))
    until(lambda: record.said(f"recording 127.0.0.1:{broker.port} into {one}"))
    options = ["--sites", "2", "--machines", "1", "--seconds", "2", "--speed", "10", "--seconds_per_state", "1"]
    plant = start("plant", *at(broker), *options)
    assert plant.popen.wait(LONG) == 0, plant.output
    lines = plant.out.read_text().splitlines()
    assert lines[0] == f"simulating plant1, plant2 at 127.0.0.1:{broker.port}"
    published = int(re.fullmatch(r"published (\d+) messages, \1 acknowledged", lines[1])[1])  # type: ignore[index]
    assert published == 2 * (2 * 3 + 3 + 3)  # per site: six blocks, and at 0, 1 and 2 s a state and a temperature
    assert re.match(r"0\.0 s simulated, \d+ messages published(, [\d.]+ s behind)?\n", plant.err.read_text())
    until(lambda: len(spooled(one)) == published)
    record.end()
    assert record.out.read_text().splitlines()[-1] == f"recorded {published} messages; 0 dead letters"
    batches = list(SpoolSource(one).new())
    assert {channel for batch in batches for channel in batch.readings["channel"]} == {"vibration", "temperature"}
    labels = [row for batch in batches for row in batch.labels.select("site", "machine", "label").rows()]
    for site in ("plant1", "plant2"):
        expected = [(site, f"{site}-machine1", state) for state in ("normal", "ball", "inner")]
        assert [row for row in labels if row[0] == site] == expected

    record = start(*RECORD, *at(broker, "server.recorder"), "--spool", str(two))
    until(lambda: record.said("recording "))
    replay = start("replay", *at(broker), "--spool", str(one), "--speed", "null")
    assert replay.popen.wait(LONG) == 0, replay.output
    assert replay.out.read_text() == f"published {published} messages of {one}\n"
    until(lambda: len(spooled(two)) == published)
    record.end(signal.SIGINT)
    assert spooled(two).select("topic", "payload").equals(spooled(one).select("topic", "payload"))


def test_a_replay_that_waits_ends_at_a_signal(start: Start, broker: Broker, tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        spool.append([Message("a", b"1", i * 3_600_000_000) for i in range(3)])
    replay = start("replay", *at(broker), "--spool", str(tmp_path / "spool"))
    until(lambda: replay.said("1 messages published"))
    replay.end()
    assert replay.out.read_text().startswith("published 1 messages of ")


def test_sigterm_under_load_loses_nothing(start: Start, broker: Broker, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    count = 6000
    options = [*RECORD, *at(broker, "server.recorder"), "--spool", str(spool)]
    record = start(*options)
    until(lambda: record.said("recording "))
    with flood(broker) as line:
        messages = [("plant/n/m/x", b'{"value": %d}' % i) for i in range(count)]
        line.publish(messages[: count // 2])
        record.popen.send_signal(signal.SIGTERM)
        line.publish(messages[count // 2 :])
    assert record.popen.wait(LONG) == 0, record.output
    (recorded,) = re.findall(r"recorded (\d+) messages; 0 dead letters", record.output)
    assert len(spooled(spool)) == int(recorded)
    again = start(*options)
    until(lambda: again.said("recording "))
    until(lambda: len(spooled(spool)) >= count)
    again.end()
    assert spooled(spool)["payload"].to_list() == [payload for _, payload in messages]  # all, once, in order
    assert "Traceback" not in record.output + again.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_recording_that_waits_for_its_broker_ends_at_a_signal(start: Start, number: signal.Signals) -> None:
    port = free_port("127.0.0.1")
    record = start(
        *RECORD,
        "--connection.port",
        str(port),
        "--spool",
        "s",
        "--startup_error_behavior",
        "retry",
        "--metrics_port",
        str(free_port("127.0.0.1")),
    )
    until(lambda: record.said("trying again"))
    record.end(number)
    assert "no connection with the broker" in record.err.read_text()


def test_a_live_line_on_a_terminal(broker: Broker, tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (50, WIDTH))
    command = [
        sys.executable,
        "-m",
        "fml_lightning",
        *RECORD,
        *at(broker, "server.recorder"),
        "--spool",
        str(tmp_path / "spool"),
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command += ["--no_data_alarm", "1.5"]
    process = subprocess.Popen(command, stdout=end, stderr=end, cwd=tmp_path, env=environment)
    os.close(end)
    shown = b""

    def read() -> bytes:
        nonlocal shown
        if select.select([terminal], [], [], 0.05)[0]:
            shown += os.read(terminal, 1 << 16)
        return shown

    until(lambda: b"messages/s" in read())
    with flood(broker) as line:
        line.publish([("plant/n/m/x", b'{"value": 1}'), ("plant/n/m/x", b"junk")])
    until(lambda: b"1 dead letters" in read())
    until(lambda: b"PROBLEM" in read().partition(b"1 dead letters")[2])
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # once all is read, and nobody has the other end any more
        until(lambda: not read())
    assert process.wait(LONG) == 0
    os.close(terminal)
    first, *lines = shown.decode().split("\r\x1b[2K")
    assert first.startswith("recording ")
    nothing = "0 messages/s (0.00 MB/s) | 0 durable | lag 0.0 s | 0 dead letters | 0 machines"
    assert lines[0].endswith(nothing)  # perhaps after the alarm
    # One line, over and over, of which the last is left standing.
    assert all("\n" not in line for line in lines[:-1])
    assert lines[-1].startswith("PROBLEM: no data for ")
    assert re.fullmatch(r"[^\r\n]*\r\nrecorded 2 messages; 1 dead letters\r\n", lines[-1])


def test_no_line_is_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    for text, shown in (("x" * 19, "x" * 19), ("x" * 20, "x" * 18 + "…")):
        with LiveLine() as line:
            line.show(lambda: text)  # noqa: B023
        assert capsys.readouterr().err == f"{CLEAR}{shown}\n"


def test_no_line_moves_a_terminals_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveLine() as line:
        line.show(lambda: "PROBLEM: expected a number, got \x1b[2J\nmine")
    assert capsys.readouterr().err == "PROBLEM: expected a number, got \\x1b[2J\\nmine\n"


def test_plain_lines_elsewhere_and_metrics(start: Start, broker: Broker, tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    record = start(
        *RECORD, *at(broker, "server.recorder"), "--spool", str(tmp_path / "spool"), "--metrics_port", str(port)
    )
    until(lambda: record.said("recording "))

    def metrics() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        assert all(family.documentation for family in families)
        return {sample.name: sample.value for family in families for sample in family.samples}

    def doubtful() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        return {s.labels["reason"]: s.value for s in samples if s.name == "fml_mqtt_doubtful_total"}

    until(lambda: "fml_mqtt_connected" in metrics())
    with flood(broker) as line:
        line.publish([("plant/n/m/x", b'{"value": 1, "time": 5}'), ("plant/n/m2/x", b"junk")])
        line.publish([("plant/n/m/x", b'{"value": 1, "time": 5}')])
    until(lambda: metrics()["fml_mqtt_repeated_total"] == 1 and not metrics()["fml_mqtt_waiting"])
    found = metrics()
    assert found["fml_mqtt_committed_total"] == 3
    assert found["fml_mqtt_received_total"] == 3
    assert found["fml_mqtt_received_bytes_total"] == 2 * (23 + 11) + 4 + 12
    assert found["fml_mqtt_repeated_total"] == 1
    assert found["fml_mqtt_dead_letters_total"] == 1
    assert {reason: value for reason, value in doubtful().items() if value} == {"implausible_time": 1}  # 1970
    assert {"late", "not_finite", "stuck", "retained"} < doubtful().keys()
    assert found["fml_mqtt_connected"] == found["fml_mqtt_healthy"] == found["fml_mqtt_machines"] == 1
    assert found["fml_mqtt_silence_seconds"] >= 0
    assert found["fml_mqtt_lag_seconds"] == found["fml_mqtt_waiting"] == 0
    assert found["fml_mqtt_skew_seconds"] == pytest.approx(time.time(), rel=0.01)  # a clock at 1970
    assert found["fml_mqtt_warning"] == found["fml_mqtt_skipped"] == 0
    for name in ("redelivered", "restarts", "gaps", "takeovers", "quarantined"):
        assert found[f"fml_mqtt_{name}_total"] == 0
    until(lambda: "messages/s" in record.output)
    record.end()
    shown = record.err.read_text().splitlines()[0]
    assert re.match(r"[\d,]+ messages/s \(\d\.\d\d MB/s\) \| \d durable \| ", shown)
    assert "\x1b" not in record.output


def test_the_live_line() -> None:
    before = Status(True, True, None, 100, 0, 90, 10, 1.0, 0.0, 0, 0, 0, {}, 2, 0.0, 1, 0, 0, 0)
    now = Status(True, False, "disk full", 5100, 3_000_000, 4090, 10, 2.5, 0.0, 7, 0, 3, {}, 2, 0.0, 1, 1, 0, 0)
    usual = "2,500 messages/s (1.50 MB/s) | 4,090 durable | lag 2.5 s | 3 dead letters | 2 machines"
    assert describe(now, before, 2.0) == f"PROBLEM: disk full | {usual} | 7 redelivered | 1 restarts"
    told = replace(
        now,
        problem=None,
        redelivered=0,
        restarts=0,
        repeated=9,
        doubtful={"late": 1234, "implausible_time": 40, "not_finite": 1},
        gaps=2,
        takeovers=1,
        skipped={"speed": 2, "load": 1},
        warning="are they seconds?",
    )
    assert describe(told, before, 2.0) == (
        f"WARNING: are they seconds? | {usual} | 9 repeated | 40 implausible times | 1 not finite | 1,234 late"
        " | 2 gaps | 1 takeovers | skipped: load, speed"
    )
    many = replace(told, problem="it burns", skipped=dict.fromkeys("edcba", 1))
    assert describe(many, before, 2.0).startswith("PROBLEM: it burns | WARNING: are they seconds? | 2,500")
    assert describe(many, before, 2.0).endswith("skipped: a, b, c and 2 more")


def test_metrics_are_served_while_a_recording_waits_for_its_broker(start: Start, tmp_path: Path) -> None:
    needs_mosquitto()
    port, metrics_port = free_port("127.0.0.1"), free_port("127.0.0.1")
    options = ["--connection.port", str(port), "--spool", "s", "--startup_error_behavior", "retry"]
    record = start(*RECORD, *options, "--metrics_port", str(metrics_port))

    def gauge(name: str) -> float | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=LONG) as answer:
                return float(re.findall(rf"^fml_mqtt_{name} (\S+)$", answer.read().decode(), re.M)[0])
        except OSError:
            return None

    until(lambda: gauge("connected") == 0 and gauge("healthy") == 0)
    until(lambda: "PROBLEM: no connection with the broker" in record.err.read_text())
    assert "recording " not in record.out.read_text()
    broker = Broker(tmp_path / "broker", port=port, settings={"allow_anonymous": "true"})
    broker.settings["use_username_as_clientid"] = "false"
    broker.start()
    try:
        until(lambda: record.said("recording "))
        until(lambda: gauge("connected") == 1 and gauge("healthy") == 1)
        record.end()
    finally:
        broker.stop()


def test_the_second_signal_ends_at_once() -> None:
    stopped: list[bool] = []
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        with stopped_by_signal(lambda: stopped.append(True)):
            signal.raise_signal(signal.SIGINT)
            until(lambda: stopped)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert stopped == [True]
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    finally:
        signal.signal(signal.SIGINT, inherited)


# Errors and help --------------------------------------------------------------------------------------------


def fml_in(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a command that ends by itself."""
    process = Process(folder / "command", *arguments)
    return process.popen.wait(LONG), process.output


FILES = {
    "bad.yaml": "spool: [unclosed",
    "list.yaml": "- spool",
    "word.yaml": "spool: s\nconnection: nowhere.yaml\n",
    "number.yaml": "spool: s\nconnection: 7\n",
    "type.yaml": "spool: s\nmax_refusals: many\n",
    "key.yaml": "spool: s\nconnection: {hots: x}\n",
    "password.yaml": "spool: s\nconnection: {username: u, password: hunter2}\n",
    "codec.yaml": "spool: s\ntopics: [{codec: {class_path: JSONObject, init_args: {time_unit: h}}}]\n",
    "option.yaml": "spool: s\ntopics: [{codec: {class_path: JSONObject, init_args: {timeunit: s}}}]\n",
    "limit.yaml": "spool: {class_path: Spool, init_args: {folder: s, max_bytes: 0}}\n",
    "empty": "",
}
BAD = {
    "an unknown command": (
        "recrod",
        2,
        r"expected a command, one of fit, .*, broker, .*, got 'recrod'; see fml --help",
    ),
    "no command": ("", 2, r"expected a command, one of fit, .* got none"),
    "an unknown option": ("record --spool s --spol x", 2, r"no option --spol; did you mean spool"),
    "a word too many": ("record s --spool s", 2, r"unknown argument 's'; options begin with --"),
    "no spool": ("record", 2, r"spool is missing: set --spool"),
    "no such config": ("record --config nowhere.yaml", 2, r"config: File does not exist: .*nowhere.yaml"),
    "bad YAML": ("record --config bad.yaml", 2, r"parsing a flow sequence .* line 1, column 8"),
    "a YAML of something else": (
        "record --config list.yaml",
        2,
        r"--config: expected settings by name, as KEY: VALUE, got '- spool'",
    ),
    "bytes that are no text": ("record --config bytes.yaml", 2, r"config: expected text in UTF-8"),
    "a group that is a number": (
        "record --config number.yaml",
        2,
        r"connection: expected settings by name, got 7",
    ),
    "a group that is a word": ("record --config word.yaml", 2, r"connection.*nowhere.yaml"),
    "a wrong type": ("record --config type.yaml", 2, r"max_refusals: expected int, got many"),
    "an unknown key": ("record --config key.yaml", 2, r"connection: no option 'hots'"),
    "a password in YAML": ("record --config password.yaml", 2, r"connection: no option 'password'"),
    "a unit that is none": (
        "record --config codec.yaml",
        2,
        r"topics.codec.time_unit: expected s or ms or us or ns or iso, got h$",
    ),
    "an option of no codec": (
        "record --config option.yaml",
        2,
        r"topics.codec: option 'timeunit' is not accepted by .*JSONObject; did you mean time_unit",
    ),
    "a spool without room": ("record --config limit.yaml", 1, r"Spool: expected max_bytes, .* above 0, got 0"),
    "a topic": ("record --spool s --topics [{template:a/#/b}]", 2, r"topics"),
    "a port of no broker": (
        "record --spool s --connection.port 70000",
        1,
        r"port: expected 1 to 65535, got 70000",
    ),
    "a port for no metrics": ("record --spool s --metrics_port 70000", 2, r"metrics_port: expected 1 to 65535"),
    "no TLS": ("record --spool s --connection.host example.com", 1, r"is another machine, so expected tls"),
    "no password file": (
        "record --spool s --connection.username u --connection.password_file nowhere",
        1,
        r"connection.password_file: cannot read nowhere",
    ),
    "an empty password file": (
        "record --spool s --connection.username u --connection.password_file empty",
        1,
        r"connection.password_file: empty is empty",
    ),
    "no password": (
        "record --spool s --connection.username u --connection.password_env FML_NO_SUCH",
        1,
        r"environment variable FML_NO_SUCH is not set",
    ),
    "no broker": (
        "record --spool s --connection.port 1",
        1,
        r"no connection with the broker 127.0.0.1:1 .*running",
    ),
    "a folder that cannot be": ("record --spool /proc/none/s", 1, r"spool /proc/none/s: .*name a folder that can"),
    "a port of no listener": ("broker --port 70000", 2, r"port: expected 1 to 65535"),
    "users that are no list": ("broker --users alice", 2, r"users: expected list, got alice"),
    "a listener for all": ("broker --host 0.0.0.0", 1, r"others could read the passwords on their way"),
    "a plant at rest": ("plant --speed 0", 1, r"Plant: expected speed above 0"),
    "a plant without a broker": ("plant --connection.port 1", 1, r"no connection with the broker 127.0.0.1:1"),
    "a spool that is none": ("replay --spool nowhere", 1, r"spool nowhere: no such folder"),
    "a speed that is none": ("replay --spool . --speed fast", 2, r"speed: expected float, got fast"),
    "a replay at rest": ("replay --spool . --speed 0", 1, r"speed: expected above 0, got 0.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_is_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected, match = BAD[case]
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("bytes.yaml").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(sys, "argv", ["fml", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == expected, said
    assert said.err.startswith("fml: error: ")
    assert said.err.count("\n") == 1, said.err
    assert re.search(match, said.err.strip()), said.err
    assert "hunter2" not in said.err + said.out
    assert "recording" not in said.out


def test_a_wrong_password_is_one_sentence_without_it(broker: Broker, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.password"
    wrong.write_text("correct-horse-battery-staple\n")
    options = [*at(broker)[:-1], str(wrong)]
    for command in ([*RECORD, "--spool", "s"], ["plant"]):
        status, said = fml_in(tmp_path, *command, *options)
        assert status == 1
        (line,) = [line for line in said.splitlines() if not line.startswith("simulating")]
        assert re.search(r"refuses the user 'server' \((bad user name or password|not authorized)\)", line)
        assert "correct-horse" not in said


def test_a_spool_in_use_is_one_sentence(broker: Broker, tmp_path: Path) -> None:
    with Spool(tmp_path / "spool"):
        options = [*at(broker, "server.recorder"), "--spool", str(tmp_path / "spool")]
        status, said = fml_in(tmp_path, *RECORD, *options)
    assert status == 1
    assert said == (
        f"fml: error: spool {tmp_path / 'spool'}: another process writes to it; stop that one, or name another"
        " folder\n"
    )


def test_metrics_at_a_port_in_use_are_one_sentence(broker: Broker, tmp_path: Path) -> None:
    options = [*at(broker), "--spool", "s", "--metrics_port", str(broker.port)]
    status, said = fml_in(tmp_path, *RECORD, *options)
    assert status == 1
    assert f"metrics_port: cannot serve at 127.0.0.1:{broker.port} (" in said
    assert said.count("\n") == 1


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["fml", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 0
    assert said.err == ""
    return said.out


def test_what_print_config_prints_can_be_used(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FML_PASSWORD", "hunter2")
    file = tmp_path / "printed.yaml"
    secret = ["--connection.username", "u", "--connection.password_env", "FML_PASSWORD"]
    for command in (["record"], RECORD):
        printed = run_main(monkeypatch, capsys, *command, "--spool", "s", *secret, "--print_config")
        assert "password_env: FML_PASSWORD" in printed
        assert "hunter2" not in printed
        file.write_text(printed)
        again = run_main(monkeypatch, capsys, "record", "--config", str(file), "--print_config")
        assert set(printed.splitlines()) <= set(again.splitlines())
    assert again == printed


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from fml_lightning.commands.learning import FMLCommand

    assert set(FMLCommand.subcommands()) == set(LEARNING)
    for option in ("--help", "-h"):
        printed = run_main(monkeypatch, capsys, option)
        assert printed == overview() + "\n"
        assert max(map(len, printed.splitlines())) <= 100
        for name, purpose in (LEARNING | COMMANDS).items():
            assert re.search(rf"^  {name} +{re.escape(purpose)}$", printed, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "provision"])  # whose steps have options
def test_help_explains_every_option(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    printed = run_main(monkeypatch, capsys, name, "--help")
    assert f"\n{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.\n" in printed
    options = re.findall(r"^  (--[a-z_.]+)( .*)?\n?((?:       .*\n)*)", printed, re.MULTILINE)
    assert options
    for option, rest, below in options:
        text = re.sub(r"\((required, )?type: .*", "", rest + below)
        assert len(text.split()) >= 3, f"{option} is not explained"
    titles = {title for title in re.findall(r"^(\S.*):$", printed, re.MULTILINE) if "broker" not in title}
    if name == "site":
        titles -= {"the learner", "the data", "What the site lets happen, and what of it may leave"}
    assert titles <= {"options", "positional arguments"}
    assert "with Broker(" not in printed


def test_recording_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from fml_lightning.__main__ import run_command\n"
        "try: run_command('record', ['--help'])\n"
        "except SystemExit: pass\n"
        "import fml_lightning.commands.replay, fml_lightning.commands.plant, fml_lightning.commands.broker\n"
        "assert not {'torch', 'lightning', 'numba', 'scipy'} & set(sys.modules), 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--no_data_alarm" in done.stdout
    assert done.stderr == ""
