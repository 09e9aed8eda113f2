"""A site of a real federation: answers the server's messages with work on its own data, as far as it consents.

The server is believed nothing but its name. What leaves goes through `Consent`, and into a log at the site first.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from lightning.pytorch import LightningDataModule

from fml_lightning.durable import add_lines, make_folder, write
from fml_lightning.errors import UserError
from fml_lightning.executors.agreement import agreement, differences
from fml_lightning.executors.consent import Consent, next_aliases, told_preprocessing
from fml_lightning.executors.messages import Asked, answer, refusal, work_of
from fml_lightning.executors.site_memory import SiteMemory
from fml_lightning.executors.site_work import TellsSums, work_at_site
from fml_lightning.executors.stamps import Stamps
from fml_lightning.executors.wire import WireError, unpack
from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work
from fml_lightning.learners.learner import Learner
from fml_lightning.names import escaped, file_name

SENT, ALIASES, STAMPS, STATE = "sent.jsonl", "aliases.json", "stamps.json", "state"
"""What there is in a site's folder: what left, how machines are called outside, which requests came, and, of every
run, what is personal."""
DISK = "its disk is full or failing; its own log says more"
ANOTHER_LEARNER = "this site's learner is another one: {}; configure both alike"
COPY = (
    "the request came before, or is a copy of one that did: fml fit asks anew by itself, so if this is told again,"
    " somebody at the server's host replays messages"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """What a site has done with a request."""

    verb: str
    round: int
    run: str
    ended: float
    """On the monotonic clock, in seconds."""
    seconds: float
    """Of the site's work."""
    failure: str | None
    """Why it failed, as the site's own log has it; None: it did not."""


class SiteProcess:
    """What `fml site` does: one site's data, learner, memory and consent.

    Calls come one at a time, from one thread.

    Args:
        name: the site's, as its certificate has it.
        learner: the template of every work; it stays as it is.
        data: the site's data. `preprocessing`, if it has that, is compared among sites.
        folder: where everything is kept that must outlive the process; made where it is missing.
        consent: what the site lets happen, and what may leave.
        classes: what labels mean, in their order; compared among sites.
        accelerator: what the site's Trainer runs on.
        precision: of the site's Trainer.

    Raises:
        UserError: the folder holds something else, or the windows cannot be described to other sites.
    """

    def __init__(
        self,
        name: str,
        learner: Learner,
        data: LightningDataModule,
        folder: Path,
        consent: Consent,
        classes: Iterable[str] = (),
        accelerator: str = "cpu",
        precision: Literal["32-true", "bf16-mixed"] = "32-true",
    ) -> None:
        self.name = name
        self.learner = learner
        self.data = data
        self.folder = folder
        self.consent = consent
        self.classes = tuple(classes)
        self.accelerator = accelerator
        self.precision = precision
        make_folder(folder)
        preprocessing = getattr(data, "preprocessing", None)
        self.preprocessing: dict[str, Any] = told_preprocessing(preprocessing.describe()) if preprocessing else {}
        """How windows are made, as other sites and the server may know it."""
        self.agreement = agreement(learner)
        self.stamps = Stamps(folder / STAMPS)
        self.aliases = _read_aliases(folder / ALIASES)
        self.last: Done | None = None
        """What was done last."""
        self.counts: Counter[str] = Counter()
        """How many updates, failures and bytes have left, since the process began."""
        self._told: dict[str, str] = {}

    def answer(self, message: bytes) -> bytes:
        """Do what a message asks, and return the message that answers it; nothing that comes makes it raise."""
        try:
            asked = work_of(*unpack(message))
        except WireError as error:
            self._tell("message", f"a message that cannot be read: {error}")
            return self._unread(f"it cannot read the message: {error}")
        try:
            outcome, newest = self._outcome(asked)
            return self._leave(asked, outcome, newest)
        except OSError as error:
            return self._fail(asked, DISK, error)
        except Exception as error:  # the outcome is of the learner's own making, and may be anything
            return self._fail(asked, "its answer cannot be sent; its own log says why", error)

    def _outcome(self, asked: Asked) -> tuple[SiteUpdate | SiteFailure, int | None]:
        """What comes of the request, and the newest stamp, where it is of an older one."""
        began, work = time.perf_counter(), asked.work
        outcome: SiteUpdate | SiteFailure
        newest = None
        why: str | None = None
        if not self.stamps.accept(work.run, asked.stamp):
            newest = self.stamps.newest(work.run)
            outcome = SiteFailure(self.name, work.round, COPY)
        elif difference := differences(asked.learner, self.agreement):
            why = ANOTHER_LEARNER.format(difference)
            told = ANOTHER_LEARNER.format(self.consent.disagreement(asked.learner, self.agreement))
            outcome = SiteFailure(self.name, work.round, told, permanent=True)
        elif reason := self._misfit(work) or self._refusal(work):
            outcome = SiteFailure(self.name, work.round, reason, permanent=True)
        else:
            outcome, why = self._work(asked)
        if isinstance(outcome, SiteFailure):
            why = why or outcome.reason
            self._tell(work.verb, why)
        seconds = time.perf_counter() - began
        self.last = Done(work.verb, work.round, work.run, time.monotonic(), seconds, why)
        return outcome, newest

    def _refusal(self, work: Work) -> str | None:
        """Why the site does not do this work, if it does not."""
        tells_sums = isinstance(self.data, TellsSums) and self.data.tells_sums
        if work.verb == "sums" and not tells_sums:
            return None  # nothing leaves but that there are none
        if tells_sums and work.verb != "sums" and work.statistics is None:
            return (
                "this site's features are standardized by the training sites, whose statistics the server does not"
                " know; have all sites say standardize alike, or give standardize.statistics"
            )
        return self.consent.refusal(work, self.stamps.trained(work.run))

    def _misfit(self, work: Work) -> str | None:
        """Why these are not the learner's parameters, if they are not."""
        if work.verb == "sums":
            return None  # for which no parameters are needed
        shared, came = self.learner.shared, work.params
        if set(came) != set(shared) or any(
            came[name].shape != p.shape or came[name].dtype != p.dtype for name, p in shared.items()
        ):
            return f"expected the {len(shared)} parameters that its learner shares, got others"
        return None

    def _work(self, asked: Asked) -> tuple[SiteUpdate | SiteFailure, str | None]:
        """The outcome of the work, with nothing in it but what may leave, and why it failed, if it did."""
        work = asked.work
        memory = SiteMemory.below(
            self.folder / STATE / file_name(work.run),
            frozenset({self.name} if asked.stateful else ()),
            asked.revisitable,
        )
        outcome = work_at_site(
            self.learner,
            work,
            self.name,
            self.data,
            memory,
            accelerator=self.accelerator,
            precision=self.precision,
        )
        why = outcome.reason if isinstance(outcome, SiteFailure) else None
        if why is None and work.verb == "fit":
            self.stamps.count(work.run)
        named = self.consent.machines_named(outcome, work.verb, self.learner)
        if self.consent.machines == "aliases":
            self._give_aliases(named)
        return self.consent.leaving(outcome, work.verb, self.learner, self.aliases), why

    def _give_aliases(self, machines: Iterable[str]) -> None:
        """Give the machines that have no alias the next numbers, in an order that is drawn."""
        new = [machine for machine in machines if machine not in self.aliases]
        if new:
            secrets.SystemRandom().shuffle(new)
            self.aliases = next_aliases(self.aliases, new)
            text = json.dumps(self.aliases, indent=2, ensure_ascii=False)
            write(self.folder / ALIASES, text.encode("utf-8", "surrogatepass"))

    def _leave(self, asked: Asked, outcome: SiteUpdate | SiteFailure, newest: int | None = None) -> bytes:
        """The message of an outcome, once it is logged that it leaves."""
        message = answer(asked, outcome, preprocessing=self.preprocessing, classes=self.classes, newest=newest)
        self._log(asked.work, _what(asked.work.verb, outcome), len(message), outcome.seconds)
        self.counts["failures" if isinstance(outcome, SiteFailure) else "updates"] += 1
        self.counts["bytes"] += len(message)
        return message

    def _unread(self, reason: str) -> bytes:
        message = refusal(reason)
        try:
            self._log(None, f"refusal: {reason}", len(message), 0.0)
        except OSError as error:
            log.error("%s: %s", self.folder / SENT, error)
        self.counts["failures"] += 1
        self.counts["bytes"] += len(message)
        return message

    def _fail(self, asked: Asked, reason: str, error: Exception) -> bytes:
        """The answer where another one cannot be made or logged: a sentence that says nothing of the site."""
        log.error("%s: %s", type(error).__name__, escaped(str(error)))
        outcome = SiteFailure(self.name, asked.work.round, reason)
        try:
            return self._leave(asked, outcome)
        except OSError:  # the one thing that leaves without a line, as there is no disk to write it to
            return answer(asked, outcome, preprocessing=self.preprocessing, classes=self.classes)

    def _log(self, work: Work | None, what: str, size: int, seconds: float) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": work.run if work else None,
            "round": work.round if work else None,
            "verb": work.verb if work else None,
            "what": escaped(what),
            "bytes": size,
            "seconds": round(seconds, 3),
        }
        add_lines(self.folder / SENT, [msgspec.json.encode(line)])

    def _tell(self, about: str, reason: str) -> None:
        """Log why something failed, unless it failed for the same reason before."""
        without_digits = re.sub(r"\d+", "", reason)
        if self._told.get(about) != without_digits:
            self._told[about] = without_digits
            log.warning("%s: %s", about, escaped(reason))


def _what(verb: str, outcome: SiteUpdate | SiteFailure) -> str:
    """What leaves with an outcome of a verb, in words."""
    if isinstance(outcome, SiteFailure):
        return f"failure: {outcome.reason}"
    if verb == "sums":
        sums = outcome.sums
        return f"sums: of {sums.columns} columns over {sums.rows:.0f} rows" if sums else "that no sums are needed"
    parts = [(outcome.delta, "parameters: {} tensors"), (outcome.metrics, "metrics: {}")]
    said = [words.format(len(content)) for content, words in parts if content]
    return ", ".join(said) or "that it can adapt"


def _read_aliases(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        return msgspec.convert(json.loads(path.read_bytes().decode("utf-8", "surrogatepass")), dict[str, str])
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected the aliases of this site's machines, got something else ({error}); restore it from"
            " a backup, or remove it: then machines get new aliases"
        ) from error
