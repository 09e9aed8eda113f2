"""Our component in NVFlare's server: passes on what `fml fit` asks sites, and hands out what was released to them.

NVFlare makes it (the kit's `local/resources.json` names it). It reads no message of `fml fit`'s, keeps none, and
logs no content.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply, new_cell_message
from nvflare.fuel.f3.message import Message
from nvflare.private.defs import CellMessageHeaderKeys

from fml_lightning.durable import sync_file
from fml_lightning.errors import UserError
from fml_lightning.executors.nvflare.envelope import (
    FETCH,
    RELEASED,
    Answer,
    Ask,
    Carried,
    Connected,
    Disable,
    Done,
    Enable,
    EnvelopeError,
    Failure,
    Fetch,
    Fetched,
    Forget,
    Member,
    Passed,
    Released,
    Reply,
    ToHub,
    Who,
    decode,
    encode,
)
from fml_lightning.executors.nvflare.local_link import SERVER_SOCKET, Link, Listener, listen
from fml_lightning.executors.nvflare.namesakes import Namesakes, in_use_twice
from fml_lightning.executors.nvflare.site_hub import CHANNEL, HERE, PASS

FOLDER = "FML_SERVER"
"""The environment variable with the server's folder."""
PIECE = 4 * 2**20
"""Bytes of a file that one answer holds."""
ASKING = 64
"""Sites that are asked at the same time; more wait for a place, within their deadline."""
GONE = frozenset(
    {ReturnCode.TIMEOUT, ReturnCode.TARGET_UNREACHABLE, ReturnCode.INVALID_TARGET, ReturnCode.COMM_ERROR}
)
"""What NVFlare says where nothing came back from a site."""


class _Until(Signal):  # type: ignore[misc]
    """Ends NVFlare's waiting at a moment, over all its stages, or when nobody wants the answer any more."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    @property
    def triggered(self) -> bool:
        """Whether to wait no longer."""
        return self.left <= 0 or self._value is not None

    @property
    def is_forgotten(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._value is not None


class _UntilRefused(Signal):  # type: ignore[misc]
    """Ends NVFlare's waiting for a site with `until`, or when the site is not to take part any more."""

    def __init__(self, until: _Until, is_refused: Callable[[], bool]) -> None:
        super().__init__()
        self._until = until
        self._is_refused = is_refused

    @property
    def triggered(self) -> bool:
        """Whether to wait no longer."""
        return self._until.triggered or self._is_refused()


class ServerHub(FLComponent):  # type: ignore[misc]
    """Between the processes of the server's host and the hubs of the sites."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(os.environ.get(FOLDER, ""))
        self._engine: Any = None
        self._listener: Listener | None = None
        self._pool = ThreadPoolExecutor(ASKING, "fml-ask")
        self._namesakes = Namesakes()
        self._here: dict[str, str] = {}
        """The token with which each site's hub has shown itself: from then on its line carries both ways."""
        self._carried = Carried()
        self._counting = threading.Lock()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin when NVFlare's server begins, and end with it."""
        if event_type == EventType.SYSTEM_START:
            self._start(fl_ctx.get_engine())
        elif event_type == EventType.SYSTEM_END and self._listener is not None:
            self._listener.close()

    def _start(self, engine: Any) -> None:
        self._engine = engine
        cell = engine.get_cell()
        cell.register_request_cb(channel=CHANNEL, topic=PASS, cb=self._hand_out)
        # After NVFlare's own filter, which has checked by then that the token is the server's, for this name.
        cell.core_cell.add_incoming_filter(channel="*", topic="*", cb=self._hear)
        try:
            self._listener = listen(self._folder, SERVER_SOCKET)
        except (UserError, OSError) as error:
            self.logger.error(f"fml fit cannot reach this server: {error}")
            return
        threading.Thread(target=self._accept, args=(self._listener,), name="fml-hub", daemon=True).start()
        self.logger.info("ServerHub is ready")

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                link = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(link,), name="fml-link", daemon=True).start()

    def _serve(self, link: Link) -> None:
        """Answer one process of this host, until it goes."""
        asking: dict[int, _Until] = {}
        with link:
            try:
                while True:
                    said = decode(link.receive(), ToHub)
                    self._do(said, link, asking)
            except EnvelopeError:
                self.logger.warning(
                    "a process of this host says what ServerHub does not understand; see its version"
                )
            except OSError:
                pass  # it has gone
            finally:
                for until in asking.values():
                    until.trigger(True)

    def _do(self, said: ToHub, link: Link, asking: dict[int, _Until]) -> None:
        match said:
            case Who():
                refused = {name: in_use_twice(name) for name in self._namesakes.names() if self._is_twice(name)}
                clients = [client for client in self._connected() if client.name not in refused]
                link.send(encode(Connected(clients=clients, refused=refused, carried=self._carried)))
            case Ask():
                for number in [number for number, until in asking.items() if until.triggered]:
                    del asking[number]
                asking[said.number] = until = _Until(said.deadline)
                self._count(said)
                for client in said.clients:
                    self._pool.submit(self._ask, client, said, link, until)
            case Forget():
                if said.number in asking:
                    asking.pop(said.number).trigger(True)
            case Disable():
                link.send(encode(self._let_in(said.clients, self._engine.disable_clients, "disabled")))
            case Enable():
                link.send(encode(self._let_in(said.clients, self._engine.enable_clients, "enabled")))

    def _connected(self) -> list[Member]:
        now = time.time()  # as NVFlare notes heartbeats
        return [
            Member(client.name, max(0.0, now - client.last_connect_time))
            for client in self._engine.get_clients()
            if self._here.get(client.name) == client.token
        ]

    def _hear(self, message: Message) -> None:
        """Note who says something, whatever it is."""
        name = message.get_header(CellMessageHeaderKeys.CLIENT_NAME)
        token = message.get_header(CellMessageHeaderKeys.TOKEN)
        if name and token:
            given = [client.token for client in self._engine.get_clients() if client.name == name]
            self._namesakes.hear(name, token, given[0] if given else None)

    def _is_twice(self, name: str) -> bool:
        """Whether two hosts have a name, which is not locked out anyway."""
        return self._namesakes.has(name) and not self._is_disabled(name)

    def _is_disabled(self, name: str) -> bool:
        """Whether a name is locked out."""
        return bool(self._engine.server.client_manager.is_client_disabled(name))

    def _is_admitted(self, name: object) -> bool:
        """Whether a site is registered, and not disabled."""
        return any(client.name == name for client in self._engine.get_clients())

    def _ask(self, client: str, ask: Ask, link: Link, until: _Until) -> None:
        """Ask one site, and tell whoever asked; in a thread of the pool."""
        try:
            outcome = self._asked(client, ask, until)
        except Exception as error:  # of NVFlare's: the site's turn is lost, the hub goes on
            self.logger.warning(f"{client} could not be asked ({type(error).__name__})")
            outcome = Failure(number=ask.number, client=client, reason="it could not be asked", silent=True)
        if until.is_forgotten:
            return
        try:
            link.send(encode(outcome))
        except OSError:
            until.trigger(True)

    def _asked(self, client: str, ask: Ask, until: _Until) -> Answer | Failure:
        def failure(reason: str, *, silent: bool = False) -> Failure:
            return Failure(number=ask.number, client=client, reason=reason, silent=silent)

        deadline = until.left
        if self._is_twice(client):
            return failure(in_use_twice(client))
        if not self._is_admitted(client):  # a disabled site's line may still be up
            return failure("it is not connected", silent=True)
        if until.triggered:
            return failure(f"its turn did not come within {ask.deadline:.0f} s: too many sites are asked at once")
        reply = self._engine.get_cell().send_request(
            channel=CHANNEL,
            topic=PASS,
            target=client,
            request=new_cell_message({}, encode(Passed(topic=ask.topic, data=ask.data, deadline=deadline))),
            timeout=deadline,
            optional=True,
            abort_signal=_UntilRefused(until, lambda: self._is_twice(client)),
        )
        if self._is_twice(client):
            return failure(in_use_twice(client))
        code = reply.get_header(MessageHeaderKey.RETURN_CODE)
        if code in GONE:
            if until.triggered:
                return failure(f"it did not answer within {ask.deadline:.0f} s", silent=True)
            return failure("the line to it is broken", silent=True)
        if not self._is_admitted(client):
            return failure("it is no longer connected", silent=True)
        if code != ReturnCode.OK or reply.get_header(MessageHeaderKey.ORIGIN) != client:
            return failure("its NVFlare client does not know what to do; see its log, and whether fml site runs")
        data = bytes(reply.payload or b"")
        if len(data) > ask.most_bytes:
            return failure(f"its answer has {len(data)} bytes, of at most {ask.most_bytes}")
        try:
            answered = decode(data, Reply)
        except EnvelopeError:
            return failure("its hub's answer cannot be read; install the same version at all hosts")
        if answered.data is None:
            return failure(answered.reason or "it gave no reason")
        self._count(answered.data)
        return Answer(number=ask.number, client=client, data=answered.data)

    def _count(self, what: Ask | bytes) -> None:
        """Count an asking, or an answer."""
        with self._counting:
            had = self._carried
            if isinstance(what, Ask):
                sent = had.sent + len(what.data) * len(what.clients)
                told = {"askings": had.askings + 1, "sent": sent, "run": what.run, "round": what.round}
            else:
                told = {"received": had.received + len(what)}
            self._carried = replace(had, **told)

    def _let_in(self, clients: list[str], change: Any, state: str) -> Done:
        """Have NVFlare disable or enable sites; it remembers that over restarts and power cuts."""
        try:
            done = change(clients)["clients"]
            if (file := self._engine.server.client_manager.disabled_clients_file) and Path(file).exists():
                sync_file(Path(file))
        except Exception as error:
            return Done(reason=f"NVFlare's server could not do it ({type(error).__name__}); see its log")
        failed = [each.get("client_name", "?") for each in done if each.get("state") != state]
        return Done(
            reason=f"NVFlare's server could not do it for {', '.join(failed)}; see its log" if failed else ""
        )

    def _hand_out(self, request: Message) -> Message:
        """Answer what a site asks."""
        origin = request.get_header(MessageHeaderKey.ORIGIN)
        if self._is_twice(origin):
            self.logger.warning(in_use_twice(origin))
            return _reply(Reply(reason=in_use_twice(origin)))
        if self._is_disabled(origin):  # NVFlare says neither of this where a client is registered already
            self.logger.warning(f"Reject disabled client heartbeat: {origin}")
            return _reply(Reply(reason=f"Client '{origin}' is disabled"))
        try:
            asked = decode(bytes(request.payload), Passed)
            if asked.topic == HERE:
                self._here[origin] = request.get_header(CellMessageHeaderKeys.TOKEN)
                return _reply(Reply(data=b""))
            if not self._is_admitted(origin):
                self.logger.warning("refused a message that does not come from a connected site")
                return make_reply(ReturnCode.UNAUTHENTICATED, "only connected sites may ask")
            if asked.topic != FETCH:
                raise EnvelopeError("unknown topic")
            fetched = self._fetched(decode(asked.data, Fetch))
        except (EnvelopeError, TypeError):
            fetched = Fetched(reason="the server cannot read the message; install the same version at all hosts")
        except OSError as error:
            self.logger.error(f"{RELEASED}: cannot be read ({type(error).__name__})")
            fetched = Fetched(reason="the server cannot read what it has released; see its log")
        return _reply(Reply(data=encode(fetched)))

    def _fetched(self, asked: Fetch) -> Fetched:
        files = dict(self._released())
        if not asked.run:
            return Fetched(
                released=[Released(run, file.stat().st_size, file.stat().st_mtime) for run, file in files.items()]
            )
        if asked.run not in files:  # so no path is ever made of what a site says
            return Fetched(reason="the server has released no such run")
        with files[asked.run].open("rb") as file:
            file.seek(asked.at)
            return Fetched(piece=file.read(PIECE))

    def _released(self) -> Iterator[tuple[str, Path]]:
        folder = self._folder / RELEASED
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.suffix == ".ckpt" and file.is_file() and not file.is_symlink():
                yield file.stem, file


def _reply(reply: Reply) -> Message:
    return new_cell_message({MessageHeaderKey.RETURN_CODE: ReturnCode.OK}, encode(reply))
