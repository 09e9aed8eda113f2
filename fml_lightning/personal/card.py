"""The card of a personal model: what it was made of, how good it is, and whether it should watch its machine."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal

import msgspec

import fml_lightning
from fml_lightning.errors import UserError
from fml_lightning.names import escaped, shown
from fml_lightning.personal.interval import Interval

Verdict = Literal["ship", "doubtful", "refused"]
"""`ship`: it may watch its machine. `doubtful`: it may, and somebody should look. `refused`: it must not."""
FEWEST_WINDOWS = 10
"""Query windows below which a metric says little: of 10 that are all right, the interval goes down to 72 %."""
REFUSED_ALARMS = 0.2
"""Share of normal windows called faulty above which a model is refused: whoever is alarmed that often looks away.
Of eight models of the demo one called 45 % of its normal windows faulty."""
DOUBTFUL_ALARMS = 0.02
"""Share of normal windows called faulty above which a model is doubtful: a mean over some windows hides fewer."""


class Windows(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The windows of one side of an episode."""

    count: int
    of_class: dict[str, int] = {}
    """How many there are of each class, by its name; none where targets are no classes."""
    first: str | None = None
    """When the first one began, UTC; None where the data do not tell the time of day."""
    last: str | None = None
    """When the last one began."""
    sha256: str = ""
    """Of what the network sees of them, and their targets."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the model was adapted from."""

    path: str
    sha256: str
    rounds: int
    run: str = ""
    """The id of the run."""


class Qualification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often the model calls normal windows faulty that it has not been adapted to."""

    windows: int
    alarms: int
    """Of these windows, those with a score above the threshold of an alarm."""
    rate: float
    interval: Interval


class Current(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the model that watches the machine does on the query windows that another one is judged by."""

    version: str
    value: float | None = None
    """Of the card's metric; None: it cannot be compared."""
    problem: str = ""
    """Why it cannot be compared; empty if it can."""


class Card(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a personal model. As JSON it lies beside the model, and in its file."""

    site: str
    machine: str
    before: float
    """The metric on query windows with the shared initialization."""
    after: float
    """The same with the machine's own model."""
    metric: str
    higher_is_better: bool = True
    unit: str | None = None
    """Of the metric, if it has one."""
    interval: Interval | None = None
    """Between which two numbers `after` lies, see `interval`."""
    current: Current | None = None
    """The machine's current model on the same windows; None where there was none."""
    guess: float | None = None
    """The metric of saying the most frequent class always, or any class where all windows are of one; None where
    the metric is no share of right classes."""
    shots: int
    """Support windows per class; in all, where targets are no classes or some have more windows than others."""
    support: Windows
    query: Windows
    steps: int
    """Inner steps that the adaptation took."""
    steps_chosen: bool = False
    """Whether a share of the support windows chose them; else they are the learner's own."""
    learner: str
    """Its class."""
    adaptation: str
    """Its inner loop."""
    seconds: float
    """Time the adaptation took to compute."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Query windows of each class (rows) that the model takes for each class (columns)."""
    qualification: Qualification | None = None
    """None where no query window is of the normal class, or nobody knows which class is normal."""
    checkpoint: Checkpoint | None = None
    warnings: tuple[str, ...] = ()
    """Support windows that may not be what their label says."""
    made: str
    """When, UTC."""
    versions: dict[str, str] = {}
    """Of this package, of torch and of Python."""
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    """Why it is no better than that; a sentence each."""
    sha256: str = ""
    """Of the model's file."""

    def to_json(self) -> dict[str, Any]:
        """As a mapping that JSON can hold, without what is not known."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        return content

    @classmethod
    def read(cls, path: Path) -> Card:
        """The card in a JSON file.

        Raises:
            UserError: there is none, it cannot be read, or it is not whole.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            raise UserError(f"{path}: no such card; make the model again with fml personalize") from None
        except OSError as error:
            raise UserError(f"{path}: it cannot be read: {error.strerror or error}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: it is no card ({error}); make the model again with fml personalize"
            ) from error


def judged(card: Card) -> Card:
    """The card with its verdict, and the reasons for it."""
    refused, doubtful = refusals(card), doubts(card)
    verdict: Verdict = "refused" if refused else "doubtful" if doubtful else "ship"
    return msgspec.structs.replace(card, verdict=verdict, reasons=(*refused, *doubtful))


def refusals(card: Card) -> tuple[str, ...]:
    """Why a model must not watch its machine."""
    found = []
    if _is_worse(card) and card.interval is not None and not card.interval[0] <= card.before <= card.interval[1]:
        found.append(
            f"adapting made it worse: {card.metric} {card.before:.3f} before, {card.after:.3f} after; the"
            " windows it was adapted to may be wrong"
        )
    if (alarms := card.qualification) is not None and alarms.rate > REFUSED_ALARMS:
        found.append(
            f"it calls {alarms.rate:.0%} of {alarms.windows} normal windows faulty, and at most"
            f" {REFUSED_ALARMS:.0%} are allowed; adapt it to more normal windows"
        )
    return tuple(found)


def doubts(card: Card) -> tuple[str, ...]:
    """Why somebody should look at a model before it is trusted."""
    found = []
    if card.query.count < FEWEST_WINDOWS:
        found.append(f"it was judged by {card.query.count} windows, which is few; {FEWEST_WINDOWS} tell more")
    if card.interval is not None and card.guess is not None and card.interval[0] <= card.guess:
        found.append(
            f"it may be no better than guessing: {card.metric} {card.after:.3f}"
            f" ({card.interval[0]:.3f} to {card.interval[1]:.3f}), and guessing is right in {card.guess:.3f}"
        )
    if _is_worse(card) and card.interval is not None and card.interval[0] <= card.before <= card.interval[1]:
        found.append(f"adapting has not made it better: {card.metric} {card.before:.3f} -> {card.after:.3f}")
    if (alarms := card.qualification) is not None and DOUBTFUL_ALARMS < alarms.rate <= REFUSED_ALARMS:
        found.append(f"it calls {alarms.rate:.1%} of {alarms.windows} normal windows faulty")
    if card.warnings:
        found.append("windows that it was adapted to may not be what their label says (see warnings)")
    return tuple(found)


def beats_current(card: Card, version: str) -> tuple[bool, str]:
    """Whether a model is better than the one that watches its machine, beyond doubt, and what says so.

    It is to be shipped, and the whole interval of its metric is better than the other one's metric on the same
    windows. Where no model watches, it has to be shipped only.

    Args:
        card: of the model.
        version: of the one that watches by now; empty if there is none.
    """
    if card.verdict != "ship":
        return False, f"it is {card.verdict}: {'; '.join(card.reasons)}"
    if not version:
        return True, "no model has watched the machine"
    current = card.current
    if current is None or current.version != version:
        return False, f"{version} has become the current model since it was judged"
    if current.value is None or card.interval is None:
        why = current.problem or f"nobody knows between which numbers its {card.metric} lies"
        return False, f"it cannot be compared with {version}: {why}"
    low, high = card.interval
    is_better = current.value < low if card.higher_is_better else current.value > high
    found = (
        f"{card.metric} {card.after:.3f} ({low:.3f} to {high:.3f}), and {version} has {current.value:.3f} on the"
        f" same {card.query.count} windows"
    )
    return is_better, f"{'it is better' if is_better else 'it is not clearly better'}: {found}"


def versions() -> dict[str, str]:
    """Of what makes a model."""
    import torch  # which whoever reads a card needs not

    return {
        "fml_lightning": fml_lightning.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def summary(card: Card) -> str:
    """What a user reads of a card, a few lines."""
    unit = f" {card.unit}" if card.unit else ""
    between = f" ({card.interval[0]:.3f} to {card.interval[1]:.3f})" if card.interval else ""
    how = f"{card.steps} steps{' (chosen)' if card.steps_chosen else ''} in {card.seconds:.2f} s"
    lines = [
        f"{shown(card.site)}/{shown(card.machine)}: {card.verdict}",
        f"  {card.metric} {card.before:.3f} -> {card.after:.3f}{between}{unit} on {card.query.count} windows",
        f"  adapted on {card.support.count} windows, {how}",
    ]
    if (current := card.current) is not None and current.value is not None:
        lines.append(f"  {current.version}, current when it was made, has {current.value:.3f} on the same windows")
    elif current is not None:
        lines.append(
            f"  it cannot be compared with {current.version}, current when it was made: {current.problem}"
        )
    if (alarms := card.qualification) is not None:
        lines.append(f"  {alarms.alarms} of {alarms.windows} normal windows called faulty")
    if alarms is not None and alarms.windows == card.query.count:
        lines.append("  it was judged by no window of a fault: whether it finds one is not known")
    elif len(card.query.of_class) == 1:
        lines.append(f"  it was judged by windows of {next(iter(card.query.of_class))} alone")
    return "\n".join(escaped(line) for line in [*lines, *(f"  {reason}" for reason in card.reasons)])


def _is_worse(card: Card) -> bool:
    return card.after < card.before if card.higher_is_better else card.after > card.before
