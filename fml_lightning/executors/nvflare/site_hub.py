"""Our component in NVFlare's client: between the server's hub and a site's processes, `fml site` and `fml fetch`.

NVFlare makes it (the kit's `local/resources.json` names it). It reads no message, keeps none, and logs no content.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.utils import make_reply, new_cell_message
from nvflare.fuel.f3.message import Message

from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare.envelope import EnvelopeError, Passed, Reply, ToSite, decode, encode
from fml_lightning.executors.nvflare.local_link import (
    HUB_SOCKET,
    SITE_SOCKET,
    Link,
    LinkError,
    Listener,
    connect,
    listen,
)

CHANNEL = "fml"
"""NVFlare's channel that our messages take, both ways."""
PASS = "pass"
"""NVFlare's topic of them; what they are about is in `Passed.topic`."""
HERE = "here"
"""The topic with which a site's hub shows itself to the server's."""
ADMITTED = "the server lets this host take part again"
"""What a site's log says after the server has refused it."""
NO_ANSWER = "the server does not answer; see whether this site is connected"
SHOW_FIRST = 0.5
"""Seconds between two times that a site's hub shows itself, until the server has heard it."""
SHOW_EVERY = 3.0
"""Seconds between two times after that. NVFlare's own heartbeats do not tell of two hosts under one name: each
is lost with the line that the other host's has replaced."""
FOLDER = "FML_SITE"
"""The environment variable with the site's folder."""
FETCHING = 4
"""Processes of this host that may ask the server at the same time."""


class SiteHub(FLComponent):  # type: ignore[misc]
    """Between the server's hub and `fml site`."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(os.environ.get(FOLDER, ""))
        self._cell: Any = None
        self._listener: Listener | None = None
        self._ended = threading.Event()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin when NVFlare's client begins, and end with it."""
        if event_type == EventType.SYSTEM_START:
            self._start(fl_ctx.get_engine().get_cell())
        elif event_type == EventType.SYSTEM_END:
            self._ended.set()
            if self._listener is not None:
                self._listener.close()

    def _start(self, cell: Any) -> None:
        self._cell = cell
        cell.register_request_cb(channel=CHANNEL, topic=PASS, cb=self._pass_on)
        try:
            self._listener = listen(self._folder, HUB_SOCKET)
        except (UserError, OSError) as error:
            self.logger.error(f"fml fetch cannot reach the server: {error}")
        else:
            threading.Thread(target=self._accept, args=(self._listener,), name="fml-hub", daemon=True).start()
        threading.Thread(target=self._show, name="fml-here", daemon=True).start()
        self.logger.info("SiteHub is ready")

    def _show(self) -> None:
        """Show that this host is there, again and again, and log why the server does not let it take part."""
        refused, pause = False, SHOW_FIRST
        while not self._ended.wait(pause):
            reply = self._ask_server(Passed(topic=HERE, data=b"", deadline=SHOW_EVERY))
            if reply.data is not None:
                if refused:
                    self.logger.info(ADMITTED)
                refused, pause = False, SHOW_EVERY
            elif reply.reason != NO_ANSWER:
                self.logger.warning(reply.reason)
                refused = True

    def _pass_on(self, request: Message) -> Message:
        """Have `fml site` answer what the server asks."""
        if request.get_header(MessageHeaderKey.ORIGIN) != FQCN.ROOT_SERVER:
            # Cells can route messages from one site to another.
            self.logger.warning("refused a message that does not come from the server")
            return make_reply(ReturnCode.UNAUTHENTICATED, "only the server may ask")
        try:
            reply = self._answer(decode(bytes(request.payload), Passed))
        except (EnvelopeError, TypeError):
            reply = Reply(reason="its hub cannot read the message; install the same version at all hosts")
        return new_cell_message({MessageHeaderKey.RETURN_CODE: ReturnCode.OK}, encode(reply))

    def _answer(self, asked: Passed) -> Reply:
        # Giving up before the server does tells a slow site from one that is not there.
        patience = max(0.5, 0.9 * asked.deadline - 0.5)
        expires = time.monotonic() + patience
        try:
            with connect(self._folder, SITE_SOCKET, patience=min(5.0, patience)) as link:
                return _asked_site(link, asked, expires)
        except UserError as error:
            self.logger.error(f"the site's process cannot be reached: {error}")
            return Reply(reason="its hub and its process do not fit together; see NVFlare's log at the site")
        except TimeoutError:
            return Reply(reason=f"it did not finish within {patience:.0f} s")
        except LinkError:
            return Reply(reason="its process ended at work")
        except OSError as error:
            self.logger.warning(f"the site's process cannot be reached ({type(error).__name__})")
            return Reply(reason="its process is not running")

    def _accept(self, listener: Listener) -> None:
        with ThreadPoolExecutor(FETCHING, "fml-fetch") as pool:
            while True:
                try:
                    link = listener.accept()
                except OSError:
                    return  # closed
                pool.submit(self._serve, link)

    def _serve(self, link: Link) -> None:
        """Ask the server what a process of this host asks."""
        with link:
            try:
                while True:
                    asked = decode(link.receive(60.0), Passed)
                    link.send(encode(self._ask_server(asked)))
            except (EnvelopeError, OSError):
                return  # it has gone, or is none of ours

    def _ask_server(self, asked: Passed) -> Reply:
        reply = self._cell.send_request(
            channel=CHANNEL,
            topic=PASS,
            target=FQCN.ROOT_SERVER,
            request=new_cell_message({}, encode(asked)),
            timeout=asked.deadline,
            optional=True,
        )
        if reply.get_header(MessageHeaderKey.RETURN_CODE) != ReturnCode.OK:
            return Reply(reason=NO_ANSWER)
        try:
            return decode(bytes(reply.payload), Reply)
        except (EnvelopeError, TypeError):
            return Reply(reason="the server's answer cannot be read; install the same version at all hosts")


def _asked_site(link: Link, asked: Passed, expires: float) -> Reply:
    link.send(encode(ToSite(topic=asked.topic, data=asked.data, expires=expires)))
    return Reply(data=link.receive(max(0.0, expires - time.monotonic())))
