"""`fml broker`: a local mosquitto."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.process import parser, stopped_by_signal
from fml_lightning.connectors.broker import Broker


def run(arguments: Sequence[str]) -> int:
    """Run until a signal."""
    options = parser("broker", COMMANDS["broker"])
    options.add_argument("--users", type=list[str], default=["server"], help="who may connect")
    options.add_argument("--port", type=int, default=1883, help="where it listens")
    options.add_class_arguments(Broker, skip={"users", "port", "acl", "settings", "certificates"})
    options.set_defaults(folder="broker")
    settings = options.parse_args(list(arguments))
    settings.pop("config")
    broker = Broker(**settings)
    stop = threading.Event()
    with stopped_by_signal(stop.set), broker:
        print(f"broker at {broker.host}:{broker.port}, {'TLS' if broker.tls else 'not encrypted'}")
        for user in broker.users:
            print(f"  {user}: password in {broker.password_file(user)}")
        if broker.ca_file is not None:
            print(f"  authority to trust: {broker.ca_file}")
        print("stop it with Ctrl-C", flush=True)
        while not stop.is_set():
            broker.wait(0.5)
    return 0
