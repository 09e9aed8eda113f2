"""The messages of a round: what the server asks of a site, and what the site answers.

What leaves a site is in `SiteUpdate` and `SiteFailure`: the delta of the shared parameters, counts of windows,
metrics, and times. So is the reason of a failure, by this rule:

- The message of a `UserError` is written to be read at the server. It may name settings, shapes, machines, classes
  and counts of windows; it never holds the value of a window, a feature or a target. Whoever raises one in their
  own data module decides what it says.
- Any other exception may quote data in its message (`could not convert string to float: 'Jane Doe'`), so only its
  type and the line of code that raised it leave the site. The site writes the message to its own log.

The server believes none of it: `federation/outcomes.py` checks every outcome as if a stranger had sent it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fml_lightning.preprocessing.statistics import Statistics, Sums
from fml_lightning.types import Params

Verb = Literal["sums", "rehearse", "fit", "validate", "test"]
STAGES: Mapping[str, str] = {"fit": "train", "validate": "val", "test": "test"}
"""The first part of the names that the metrics of a verb have."""


@dataclass(frozen=True)
class Work:
    """What the server asks of each site of a cohort."""

    verb: Verb
    """`sums` asks for the sums that features are standardized by, once in a run and before all else. `fit` trains
    `local_steps` steps and answers with a delta. `validate` and `test` only measure. `rehearse` evaluates and
    personalizes one episode, to find out before the first round whether that works; its answer is that it did."""
    round: int
    """The round, counted from 0."""
    params: Params
    """The shared parameters the site starts from."""
    seed: int
    """The run's seed; a site derives its own from it, the round and its name."""
    local_steps: int = 0
    """Optimizer steps to take at the site; only for `fit`."""
    run: str = ""
    """The run's id, the same after it is resumed: a site keeps what is personal of each run apart."""
    statistics: Statistics | None = None
    """What the sites that are standardized by the training sites are standardized by, in this run; None: by what
    their fleet has set."""


@dataclass(frozen=True)
class SiteUpdate:
    """What a site sends back."""

    site: str
    round: int
    """The round of the work that this answers."""
    delta: Params
    """Shared parameters after the local work minus before, plain tensors on the CPU; empty where the site only
    measured."""
    examples: int
    """Windows that the site has to train on (FedAvg's nₖ): the attribute `num_examples` of its data module, as
    `SiteData` has it; of a data module without one, `examples_seen` in its place."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the site's Trainer logged; a name ending in `/MACHINE` (`names.quoted`) belongs to that
    machine alone."""
    seconds: float = 0.0
    """Wall time of the site's work."""
    examples_seen: int | None = None
    """Windows that the site drew in its local steps, support and query, counted as often as they were used; None:
    as many as `examples`."""
    weight: float = 1.0
    """How much each of its windows counts. It is the server that says so: what a site claims is not taken."""
    sums: Sums | None = None
    """Over its training windows, where these were asked for; None: it is not standardized by training sites."""


@dataclass(frozen=True)
class SiteFailure:
    """A site that could not do its work: an outcome of the round, not the end of the run."""

    site: str
    round: int
    reason: str
    """One sentence; see above for what it may say."""
    seconds: float = 0.0
    permanent: bool = False
    """Trying again would fail again: the configuration or the data must be mended."""
    not_yet: bool = False
    """Time alone may mend it, as where data grow and are too few so far, or a site is not connected: it has done
    nothing of the work, and is worth asking again in this round."""
