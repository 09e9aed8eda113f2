"""`fml broker`: a local mosquitto."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fml_lightning.commands.process import Port, parser, settings_of, stopped_by_signal
from fml_lightning.connectors.broker.broker import Broker

USERS = "who may connect, such as [server, plant1]; plant1 may write and read plant/plant1/#, server everything"

ROLES = (
    "one login is one client: what each user has a login of its own for, such as plant1.recorder for fml record"
)


def run(arguments: Sequence[str]) -> int:
    """Run until a signal."""
    options = parser("broker")
    options.add_argument("--users", type=list[str], default=["server"], help=USERS)
    options.add_argument("--roles", type=list[str], default=["recorder"], help=ROLES)
    options.add_argument("--port", type=Port, default=1883, help="where it listens")
    options.add_argument("--folder", type=str, default="broker", help="where it keeps passwords, log and messages")
    skip = {"folder", "users", "roles", "port", "acl", "settings", "certificates"}
    options.add_class_arguments(Broker, as_group=False, skip=skip)
    broker = Broker(**settings_of(options, arguments))
    stop = threading.Event()
    with stopped_by_signal(stop.set), broker:
        print(f"broker at {broker.host}:{broker.port}, {'TLS' if broker.tls else 'not encrypted'}")
        for login in broker.logins:
            if broker.require_client_certificate:
                print(f"  {login}: certificate and key {' and '.join(map(str, broker.client_certificate(login)))}")
            else:
                print(f"  {login}: username {broker.username(login)}, password in {broker.password_file(login)}")
        if broker.ca_file is not None:
            print(f"  authority to trust: {broker.ca_file}")
        print("stop it with Ctrl-C", flush=True)
        while not stop.is_set():
            broker.wait(0.5)
    return 0
