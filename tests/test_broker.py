import base64
import datetime
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from probes import LONG, needs_mosquitto, until

from fml_lightning.connectors.broker import broker as broker_module
from fml_lightning.connectors.broker.accounts import Accounts, hash_password
from fml_lightning.connectors.broker.broker import Broker, free_port
from fml_lightning.connectors.broker.certificates import Authority, write_private
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.publisher import Publisher
from fml_lightning.connectors.mqtt.tls import TLS
from fml_lightning.errors import UserError

# paho leaves the socket of a failed handshake to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")


class Subscriber:
    """A paho client that collects what it is sent."""

    def __init__(self, connection: Connection, client_id: str = "subscriber", topic: str = "#") -> None:
        self.received: list[tuple[str, bytes]] = []
        self.topic = topic
        self._ready = threading.Event()
        self._changed = threading.Condition()
        self.client: Client = connection.client(client_id)
        self.client._reconnect_on_failure = True
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(self.topic, qos=1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = self._on_message
        self._connection = connection

    def __enter__(self) -> "Subscriber":
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self.client.connect(
            self._connection.host, self._connection.effective_port, clean_start=False, properties=properties
        )
        self.client.loop_start()
        assert self._ready.wait(LONG)
        return self

    def __exit__(self, *error: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        with self._changed:
            self.received.append((message.topic, message.payload))
            self._changed.notify_all()

    def wait_for(self, done: Callable[[list[tuple[str, bytes]]], bool], timeout: float = LONG) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: done(self.received), timeout), (
                f"got {len(self.received)} messages"
            )


def publish(connection: Connection, *messages: tuple[str, bytes]) -> None:
    with Publisher(connection, "test") as publisher:
        for topic, payload in messages:
            publisher.publish(topic, payload, threading.Event())
        assert publisher.flush(timeout=LONG)


def with_password(connection: Connection, password: str, folder: Path) -> Connection:
    file = folder / "another.password"
    file.write_text(password)
    return replace(connection, password_file=str(file))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Start a broker with the users server, plant1 and plant2."""
    needs_mosquitto()
    started: list[Broker] = []

    def make(**options: Any) -> Broker:
        options = {"users": ("server", "plant1", "plant2"), **options}
        broker = Broker(tmp_path / "broker", **options)
        started.append(broker)
        broker.start()
        return broker

    yield make
    for broker in started:
        broker.stop()


def test_its_users_connect_and_nobody_else(start: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start()
    publish(broker.connection("server"), ("a", b"1"))
    refused = [
        with_password(broker.connection("server"), "wrong", tmp_path),
        with_password(broker.connection("server"), broker.passwords["plant1"], tmp_path),
        replace(with_password(broker.connection("server"), "any", tmp_path), username="stranger"),
        Connection(broker.host, broker.port),
    ]
    for connection in refused:
        with pytest.raises(UserError, match=r"refuses the user .* check username and password"):
            publish(connection, ("a", b"1"))


def test_a_site_reads_and_writes_its_own_topics_only(start: Callable[..., Broker]) -> None:
    broker = start()
    with (
        Subscriber(broker.connection("server.recorder"), "all") as server,
        Subscriber(broker.connection("plant1.recorder"), "one") as plant1,
        Subscriber(broker.connection("plant2.recorder"), "two") as plant2,
    ):
        publish(broker.connection("plant1"), ("plant/plant1/m/vibration", b"mine"))
        publish(broker.connection("server"), ("plant/plant2/m/vibration", b"theirs"), ("other", b"ours"))
        with pytest.raises(UserError, match=r"refuses a message of the user 'plant1'.*not authorized"):
            publish(broker.connection("plant1"), ("plant/plant2/m/vibration", b"forged"))
        server.wait_for(lambda got: len(got) == 3)
        plant2.wait_for(lambda got: len(got) == 1)
        publish(broker.connection("server"), ("plant/plant1/m/last", b""), ("plant/plant2/m/last", b""))
        for subscriber in (plant1, plant2):
            subscriber.wait_for(lambda got: got[-1][0].endswith("last"))
    assert [payload for _, payload in server.received[:3]] == [b"mine", b"theirs", b"ours"]
    assert [payload for _, payload in plant1.received] == [b"mine", b""]
    assert [payload for _, payload in plant2.received] == [b"theirs", b""]


def test_a_role_has_its_users_rights_and_a_name_that_nobody_guesses(start: Callable[..., Broker]) -> None:
    broker = start(roles=("recorder", "gateway"), acl={"plant2": ["write other/#"]})
    assert broker.logins[:3] == ("server", "server.recorder", "server.gateway")
    assert re.fullmatch(r"plant1\.gateway\.[0-9a-f]{16}", broker.username("plant1.gateway"))
    assert broker.username("plant1") == "plant1"
    assert broker.passwords["plant1"] != broker.passwords["plant1.gateway"] != broker.passwords["plant1.recorder"]
    publish(broker.connection("plant1.gateway"), ("plant/plant1/a", b""))
    publish(broker.connection("plant2.gateway"), ("other/a", b""))
    for login in ("plant1.gateway", "plant2.gateway"):
        with pytest.raises(UserError, match="not authorized"):
            publish(broker.connection(login), ("plant/plant2/a", b""))
    with pytest.raises(UserError, match=r"expected one of the logins server, .*, got 'plant3.recorder'"):
        broker.connection("plant3.recorder")


def test_rules_of_ones_own(start: Callable[..., Broker]) -> None:
    broker = start(acl={"plant1": ["write spBv1.0/plant1/#"]})
    publish(broker.connection("plant1"), ("spBv1.0/plant1/DDATA/edge", b""))
    with pytest.raises(UserError, match="not authorized"):
        publish(broker.connection("plant1"), ("plant/plant1/m/vibration", b""))
    with pytest.raises(UserError, match="acl names 'stranger', who is not among the users"):
        Broker(broker.folder, acl={"stranger": []})


def test_the_broker_is_verified(start: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start(tls=True)
    publish(broker.connection("plant1"), ("plant/plant1/a", b""))
    publish(replace(broker.connection("plant1"), host="localhost"), ("plant/plant1/a", b""))
    wrong = tmp_path / "wrong.crt"
    trustme.CA().cert_pem.write_to_path(wrong)
    for tls in (TLS(str(wrong)), TLS()):
        with pytest.raises(UserError, match=r"certificate of the broker .* is not valid.*tls\.ca_file"):
            publish(replace(broker.connection("plant1"), tls=tls), ("plant/plant1/a", b""))
    with pytest.raises(UserError, match="was lost"):
        publish(replace(broker.connection("plant1"), tls=None), ("plant/plant1/a", b""))


def test_an_expired_certificate_is_refused(start: Callable[..., Broker], tmp_path: Path) -> None:
    authority = trustme.CA()
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    issued = authority.issue_cert("127.0.0.1", not_after=yesterday)
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.crt")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    broker = start(tls=True, certificates=tmp_path)
    with pytest.raises(UserError, match="certificate has expired"):
        publish(broker.connection("plant1"), ("plant/plant1/a", b""))
    with pytest.raises(UserError, match=r"has no ca\.key beside it, so nothing can be issued"):
        broker.client_certificate("plant1")


def test_a_client_certificate_in_place_of_a_password(start: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start(tls=True, require_client_certificate=True)
    plant1 = broker.connection("plant1")
    assert plant1.username is None
    publish(plant1, ("plant/plant1/a", b""))
    with pytest.raises(UserError, match="not authorized"):
        publish(plant1, ("plant/plant2/a", b""))
    stranger = trustme.CA().issue_cert("plant1@localhost", common_name="plant1")
    stranger.cert_chain_pems[0].write_to_path(tmp_path / "stranger.crt")
    stranger.private_key_pem.write_to_path(tmp_path / "stranger.key")
    forged = TLS(str(broker.ca_file), str(tmp_path / "stranger.crt"), str(tmp_path / "stranger.key"))
    for tls in (TLS(str(broker.ca_file)), forged):
        with pytest.raises(UserError, match=str(broker.port)):
            publish(replace(plant1, tls=tls), ("plant/plant1/a", b""))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_keeps_sessions_and_queued_messages(start: Callable[..., Broker], end: str) -> None:
    broker = start(settings={"autosave_on_changes": "true", "autosave_interval": "1"})
    with Subscriber(broker.connection("server"), "keeper"):
        pass
    publish(broker.connection("plant1"), *((f"plant/plant1/{i}", b"") for i in range(50)))
    if end == "kill":
        saved = broker.folder / "mosquitto.db"
        until(lambda: saved.exists() and b"plant/plant1/49" in saved.read_bytes())
    port = broker.port
    getattr(broker, end)()
    assert broker.pid is None
    broker.start()
    assert broker.port == port
    with Subscriber(broker.connection("server"), "keeper") as subscriber:
        subscriber.wait_for(lambda got: len(got) == 50)
    assert [topic for topic, _ in subscriber.received] == [f"plant/plant1/{i}" for i in range(50)]


def test_passwords_outlive_the_broker_and_leave_with_their_user(start: Callable[..., Broker]) -> None:
    broker = start()
    before = broker.passwords
    assert len(set(before.values())) == 6
    names = {login: broker.username(login) for login in broker.logins}
    broker.stop()
    again = start(users=("server", "plant1"))
    assert again.logins == ("server", "server.recorder", "plant1", "plant1.recorder")
    assert again.passwords == {login: before[login] for login in again.logins}
    assert {login: again.username(login) for login in again.logins} == {n: names[n] for n in again.logins}
    assert not list(again.folder.glob("plant2*"))
    again.stop()
    chosen = start(users={"server": "chosen:with a colon"})
    publish(chosen.connection("server"), ("a", b""))


def test_no_secret_is_where_others_can_see_it(start: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start(tls=True)
    publish(broker.connection("plant1"), ("plant/plant1/a", b""))
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    clear = {"passwords.json", *(f"{login}.password" for login in broker.logins)}
    files = [file for file in broker.folder.rglob("*") if file.is_file()]
    for password in broker.passwords.values():
        assert password not in listed
        assert password not in repr(broker)
        for file in files:
            assert (password.encode() in file.read_bytes()) <= (file.name in clear), file
    for file in files:
        if file.suffix != ".crt":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(broker.folder.stat().st_mode) == 0o700


def test_private_files_are_private_also_where_they_were_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("long content of before")
    file.chmod(0o644)
    write_private(file, b"secret")
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"secret", 0o600)


def test_hashes_are_those_of_mosquitto_passwd() -> None:
    # mosquitto_passwd -b -c FILE user secret, mosquitto 2.0.11
    made = (
        "$7$101$4JSZz724Ivj5+n3B$SZYV0FLSkDT+lsMAzTlf3uWrts2BvRV2r/JVCqt8Hq6dfmcIiW/9tYi7C7Yk10g/e9OkYSXcyj6M5Hus13"
        "EBoA=="
    )
    assert hash_password("secret", base64.b64decode("4JSZz724Ivj5+n3B"), 101) == made


def test_a_broker_that_dies_says_why(start: Callable[..., Broker]) -> None:
    with pytest.raises(UserError, match=r"mosquitto ended when it was started: .*no_such_option"):
        start(settings={"no_such_option": "1"})
    broker = start()
    assert broker.pid is not None
    os.kill(broker.pid, 15)
    with pytest.raises(UserError, match=r"mosquitto ended: .*terminating"):
        broker.wait(timeout=LONG)


def test_a_port_that_is_taken(start: Callable[..., Broker], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{port} .*choose another port"):
            start(port=port)
    broker = start()
    with pytest.raises(UserError, match="cannot listen"):
        Broker(tmp_path / "second", port=broker.port).start()
    broker.start()  # runs already


def test_mosquitto_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker_module, "FOLDERS", ())
    with pytest.raises(UserError, match=r"mosquitto is not installed: `apt-get install mosquitto`.*`brew install"):
        Broker(tmp_path / "broker").start()


def test_trustme_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(UserError, match=r"pip install 'fml-lightning\[broker\]'"):
        Authority(tmp_path).client("plant1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "others could read the passwords"),
        ({"host": "factory.example"}, "others could read the passwords"),
        ({"require_client_certificate": True}, "needs tls"),
        ({"users": ("a/b",)}, "expected users named with letters"),
        ({"users": ("a\nb",)}, "expected users named with letters"),
        ({"roles": ("a b",)}, "expected roles named with letters"),
        ({"roles": ("a.b",)}, "expected roles named with letters"),
        ({"users": ("a", "a.recorder")}, "'a.recorder' is the login of the user 'a' as recorder; leave it out"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Broker(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_accounts_have_rules_of_their_own(tmp_path: Path) -> None:
    Accounts(tmp_path, ("server", "plant1", "idle"), (), {"idle": ()}).write()
    assert (tmp_path / "acl").read_text() == (
        "user server\ntopic readwrite #\nuser plant1\ntopic readwrite plant/plant1/#\nuser idle\n"
    )


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    needs_mosquitto()
    script = (
        "import os, sys; from fml_lightning.connectors import Broker; b = Broker(sys.argv[1]); b.start();"
        "print(b.port, flush=True); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "broker")], capture_output=True, text=True, check=False
    )
    assert run.returncode == -9, run.stderr

    def has_ended() -> bool:
        try:
            socket.create_connection(("127.0.0.1", int(run.stdout)), timeout=1).close()
        except OSError:
            return True
        return False

    until(has_ended)


def test_a_free_port_is_none_of_those_that_the_system_gives_to_others_meanwhile() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not given.exists():
        pytest.skip("only Linux tells which these are")
    assert free_port("127.0.0.1") < int(given.read_text().split()[0])
    with pytest.raises(OSError, match="assign"):
        free_port("192.0.2.1")  # no address of this machine
