"""Requests that NVFlare's process passes to `fml site`, until they are answered or nobody waits any more."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fml_lightning.executors.nvflare.envelope import EnvelopeError, ToSite, decode
from fml_lightning.executors.nvflare.local_link import SITE_SOCKET, Link, LinkError, listen

PATIENCE = 10.0
"""Seconds from a connection to its request."""

log = logging.getLogger(__name__)


class Requests:
    """Answers one request after another, each in its turn, in a thread of its own.

    That is not the main thread: there Lightning would take SIGTERM for itself, and end the work halfway.

    Args:
        folder: of the site, where it listens.
        answer: what answers a request.

    Raises:
        UserError: the folder cannot be used, or another process listens there.
    """

    def __init__(self, folder: Path, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self._listener = listen(folder, SITE_SOCKET)
        self._waiting: queue.SimpleQueue[tuple[Link, ToSite] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._worker = threading.Thread(target=self._work, name="work", daemon=True)
        self.answered_at: float | None = None
        """When an answer was last handed over, on the monotonic clock."""
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def start(self) -> None:
        """Begin to answer; what has come meanwhile is first."""
        self._worker.start()

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._worker.is_alive()

    def stop(self) -> None:
        """Take no more requests, and return when the work in hand is done and answered."""
        self._ending.set()
        self._listener.close()
        self._waiting.put(None)
        if self._worker.ident is not None:
            self._worker.join()

    def _accept(self) -> None:
        while True:
            try:
                link = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._receive, args=(link,), name="receive", daemon=True).start()

    def _receive(self, link: Link) -> None:
        try:
            self._waiting.put((link, decode(link.receive(PATIENCE), ToSite)))
        except (EnvelopeError, OSError) as error:
            log.warning("site.sock: a request that cannot be read (%s)", type(error).__name__)
            link.close()

    def _work(self) -> None:
        while (came := self._waiting.get()) is not None:
            link, request = came
            with link:
                if self._ending.is_set() or request.expires <= time.monotonic():
                    continue  # nobody waits for it any more
                try:
                    link.send(self._answer(request.data))
                except LinkError:
                    log.warning("an answer was ready too late: nobody waited for it any more")
                self.answered_at = time.monotonic()
            # A Trainer and its module refer to each other: else Python would keep those of many works, with their
            # optimizers and batches, until it looks at everything there is.
            gc.collect()
