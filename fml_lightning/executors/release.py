"""A release: what a run has learned, handed out to sites: what they share, and nothing of any site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from fml_lightning.errors import UserError
from fml_lightning.executors.agreement import Agreement, agreement, differences, digest
from fml_lightning.executors.kept_statistics import kept_statistics
from fml_lightning.executors.wire import WireError, pack, unpack
from fml_lightning.learners.learner import Learner
from fml_lightning.names import shown
from fml_lightning.params import finite
from fml_lightning.preprocessing.statistics import Statistics
from fml_lightning.types import Params

VERSION = 1
"""Of the file. Another one is refused."""
LEARNER = "learner."
"""How names of the learner's parameters begin in a checkpoint of a federation."""


class _Head(msgspec.Struct, kw_only=True):
    kind: Literal["release"] = "release"
    version: int = VERSION
    run: Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z_-]{1,64}\Z")]
    rounds: Annotated[int, msgspec.Meta(ge=0)]
    seed: int
    learner: Agreement
    statistics: Statistics | None = None


@dataclass(frozen=True)
class Release:
    """The shared parameters of a checkpoint, and by what features are standardized.

    No names of sites are in it, no metrics, and nothing that is personal.
    """

    run: str
    """The run's id; below it sites keep what is personal."""
    rounds: int
    """How many rounds the parameters have been through."""
    seed: int
    """The run's; a site draws its episodes from it, as the run itself would."""
    learner: Agreement
    """The learner that they belong to."""
    params: Params
    statistics: Statistics | None = None
    """What features were standardized by, where that was by the training sites."""

    @property
    def digest(self) -> str:
        """A short name of the learner, by which people compare it."""
        return digest(self.learner)

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> Release:
        """What of a federation's checkpoint may leave the server.

        Raises:
            UserError: the checkpoint is of no federation, or of an earlier version that did not note its learner.
        """
        run, learner = checkpoint.get("federation_run"), checkpoint.get("federation_learner")
        if not run or not learner:
            raise UserError(
                "release: the checkpoint does not say which learner it is of, as it was written by an earlier"
                " version; run one more round with fml fit --ckpt_path last"
            )
        names = [name.removeprefix("shared.") for name in learner if name.startswith("shared.")]
        state = checkpoint["state_dict"]
        params = Params({name: state[f"{LEARNER}{name}"] for name in names})
        rounds, seed = int(checkpoint["global_step"]), int(checkpoint["federation_seed"])
        return cls(run, rounds, seed, learner, params, kept_statistics(checkpoint))

    def pack(self) -> bytes:
        """The release as a file."""
        head = _Head(
            run=self.run, rounds=self.rounds, seed=self.seed, learner=self.learner, statistics=self.statistics
        )
        return pack(msgspec.to_builtins(head), self.params)

    @classmethod
    def read(cls, message: bytes) -> Release:
        """What `pack` made.

        Raises:
            WireError: it is something else.
        """
        told, params = unpack(message)
        if told.get("kind") != "release" or told.get("version") != VERSION:
            raise WireError(f"release: expected one of version {VERSION}, got something else")
        try:
            head = msgspec.convert(told, _Head)
        except (msgspec.ValidationError, RecursionError) as error:
            raise WireError(f"release: {shown(str(error), 200)}") from error
        return cls(head.run, head.rounds, head.seed, head.learner, params, head.statistics)

    def put_into(self, learner: Learner) -> None:
        """Give a learner of the same settings these parameters.

        Raises:
            UserError: the learner is another one, or a parameter is missing or not finite.
        """
        if differing := differences(self.learner, agreement(learner), "the server"):
            raise UserError(f"run {self.run} was trained with another learner: {differing}")
        own = learner.shared
        if own.keys() != self.params.keys() or not finite(self.params):
            raise UserError(f"run {self.run}: its parameters are not whole; fetch it again (fml fetch)")
        if any(
            p.shape != self.params[name].shape or p.dtype != self.params[name].dtype for name, p in own.items()
        ):
            raise UserError(f"run {self.run}: its parameters have other shapes than its learner; fetch it again")
        for name, p in own.items():
            p.data.copy_(self.params[name])
