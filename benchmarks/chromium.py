"""A headless Chromium, driven over the DevTools protocol on a pipe, which needs no client library.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--headless",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    "--remote-debugging-pipe",
]
PATIENCE = 300.0
"""Seconds to wait for anything: a limit for what never comes, not a measure of speed."""
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}


class RefusedError(RuntimeError):
    """The browser could not do what it was called for, such as because the page went meanwhile."""


class Chromium:
    """A browser of one tab, which resolves no name and so reaches 127.0.0.1 only."""

    def __init__(self, commands: int, replies: int) -> None:
        self._commands, self._replies = commands, replies
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        """Addresses asked for so far."""
        self.complaints: list[str] = []
        """What the browser logged as warning or error: blocked requests, breaches of the policy, exceptions."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self._number:
                if "error" in reply:
                    raise RefusedError(f"{method}: {reply['error']}")
                return dict(reply["result"])

    def evaluate(self, program: str) -> Any:
        """The value of a program, a promise's when it comes."""
        result = self.call("Runtime.evaluate", expression=program, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, program: str) -> None:
        """Wait until a program's value is true."""
        end = time.monotonic() + PATIENCE
        while not self._is_true(program):
            assert time.monotonic() < end, f"{program} never came: {self.evaluate('document.body.innerText')}"
            time.sleep(0.02)

    def _is_true(self, program: str) -> bool:
        try:
            return bool(self.evaluate(f"!!({program})"))
        except RefusedError:
            return False  # between two pages there is none

    def open(self, address: str) -> None:
        """Open a page."""
        self.call("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(address)})")

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key."""
        text = {"Enter": "\r", " ": " "}.get(key)
        told = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown",
            modifiers=modifiers,
            **told,
            **({"text": text} if text else {}),
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **told)

    def type(self, text: str) -> None:
        """Type text where the focus is."""
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int, scheme: str = "light") -> None:
        """Be a screen of such a size and colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path, whole: bool = False) -> None:
        """Write what is seen as PNG, or the whole page."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._replies], [], [], PATIENCE)
            assert ready, "Chromium does not answer"
            part = os.read(self._replies, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        told = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Network.loadingFailed" if told.get("blockedReason"):
                self.complaints.append(f"blocked: {told['blockedReason']}")
            case "Log.entryAdded" if told["entry"]["level"] in ("warning", "error"):
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["exceptionDetails"]))
        return message


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Start a browser with a profile of its own; it ends with the context."""
    assert PROGRAM
    (command_end, commands), (replies, reply_end) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as profile:
        arguments = [*ARGUMENTS, f"--user-data-dir={profile}"]
        arguments.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        # The protocol's pipes are descriptors 3 and 4.
        script = f'exec "$@" 3<&{command_end} 4>&{reply_end}'
        process = subprocess.Popen(
            ["/bin/bash", "-c", script, "bash", PROGRAM, *arguments],
            pass_fds=(command_end, reply_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_end)
        os.close(reply_end)
        try:
            yield Chromium(commands, replies)
        finally:
            process.kill()  # nothing of its profile is kept
            process.wait()
            os.close(commands)
            os.close(replies)
