"""The memory of sites: a site's personal parameters stay on its own disk and are never sent to the server."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fml_lightning.durable import make_folder, replace, sync_folder
from fml_lightning.errors import UserError
from fml_lightning.learners.learner import Learner
from fml_lightning.names import file_name

KEPT = 2
"""How many rounds' states of each site are kept: a run that is resumed may have to go one round back."""
TRAINED = "rounds.txt"
"""The file that lists the rounds in which a site has trained."""


@dataclass(frozen=True)
class SiteMemory:
    """A folder with the personal state of sites, simulated ones or the one of this host, after their last rounds.

    In a round a site starts from the state that it kept in an earlier round. If the run is interrupted and
    resumed, and so repeats the round, the site starts from the same state again. A site also keeps its state after
    a round that the server abandons.

    A process that is killed while it keeps a state, or a power cut, leaves the states before it, and the new one
    whole or not at all. That takes three writes to the disk itself: some 20 ms in each round of a site.
    """

    folder: Path
    """Holds a file `SITE/ROUND.pt` for each state; `SITE/rounds.txt` lists the rounds that the site trained in."""
    expected: frozenset[str] = frozenset()
    """Sites that have trained before: if one of them has no file, its state is lost, and `restore` says so."""
    revisitable: frozenset[int] = frozenset()
    """Rounds that have a checkpoint, so that the run may go back to them: the states they began with are kept."""

    @classmethod
    def below(
        cls, root: str | Path, expected: frozenset[str] = frozenset(), revisitable: frozenset[int] = frozenset()
    ) -> SiteMemory:
        """The memory of the sites of a run, in the run's folder."""
        return cls(Path(root) / "personal", expected, revisitable)

    def restore(self, learner: Learner, site: str, round_: int) -> None:
        """Load into `learner` the newest state that the site kept before a round, if it has trained before.

        Raises:
            UserError: the site's state is missing or of later rounds only, or belongs to another learner.
        """
        if not learner.personal:
            return
        rounds = self._rounds(site)
        earlier = [kept for kept in rounds if kept < round_]
        if not earlier:
            if not rounds and site in self.expected:
                raise UserError(
                    f"{site}: its personal state is not in {self.folder}; use the checkpoint in its own run"
                    " folder, or copy the folder `personal` of that run"
                )
            # In a run that goes back to before a site's first round, the site has not trained yet.
            began = next(iter(self._trained(site)), None)
            is_new = site not in self.expected and began is not None and began >= round_
            if rounds and round_ > 0 and not is_new:
                raise UserError(
                    f"{site}: its personal state is of round {rounds[-1]}, which cannot be taken back to round"
                    f" {round_}; resume from the last checkpoint"
                )
            return
        if (trained := [r for r in self._trained(site) if r < round_]) and trained[-1] not in earlier:
            kept = ", ".join(str(r + 1) for r in rounds)
            raise UserError(
                f"{site}: its personal state before round {round_} is no longer kept (kept are those before the"
                f" rounds {kept}); resume from a checkpoint of one of these, such as last"
            )
        state: Mapping[str, Tensor] = torch.load(
            self._path(site, earlier[-1]), map_location="cpu", weights_only=True
        )
        if set(state) != learner.personal:
            raise UserError(
                f"{site}: its personal state has other names than this learner's: {', '.join(sorted(state))};"
                " start anew, without --ckpt_path"
            )
        learner.load_state_dict(state, strict=False)

    def nearest(self, site: str, round_: int) -> int:
        """The round nearest to `round_` that `restore` can go back to: itself, unless the site has trained on.

        A site that is asked for a model of an older round cannot train again from a checkpoint of the run.
        """
        kept = self._rounds(site)
        due = max((r for r in {*kept, *self._trained(site)} if r < round_), default=None)
        if not kept or due in kept:
            return round_
        return min(kept, key=lambda r: (abs(r + 1 - round_), r)) + 1

    def keep(self, learner: Learner, site: str, round_: int) -> None:
        """Write the personal parameters and buffers of `learner` after a round, and remove older states."""
        if not learner.personal:
            return
        state = learner.state_dict()
        path = self._path(site, round_)
        make_folder(path.parent)
        content = io.BytesIO()
        torch.save({name: state[name].clone() for name in sorted(learner.personal)}, content)
        replace(path, content.getbuffer())
        trained = [r for r in self._trained(site) if r < round_]
        replace(self._trained_path(site), "".join(f"{r}\n" for r in [*trained, round_]).encode())
        sync_folder(path.parent)  # the new state is safe before an older one is removed
        for cut_short in path.parent.glob("*.tmp"):  # by a kill
            cut_short.unlink()
        rounds = self._rounds(site)
        needed = {max((r for r in rounds if r < back), default=None) for back in self.revisitable}
        for stale in [r for r in rounds if r > round_] + [r for r in rounds if r <= round_][:-KEPT]:
            if stale > round_ or stale not in needed:
                self._path(site, stale).unlink()

    def clear(self) -> None:
        """Remove the states of all sites."""
        for path in self.folder.glob("*/*.pt"):
            if path.stem.isdigit():
                path.unlink()
        for name in (TRAINED, "*.tmp"):
            for path in self.folder.glob(f"*/{name}"):
                path.unlink()

    def _path(self, site: str, round_: int) -> Path:
        return self.folder / file_name(site) / f"{round_}.pt"

    def _rounds(self, site: str) -> list[int]:
        kept = self._path(site, 0).parent.glob("*.pt")
        return sorted(int(path.stem) for path in kept if path.stem.isdigit())

    def _trained_path(self, site: str) -> Path:
        return self._path(site, 0).with_name(TRAINED)

    def _trained(self, site: str) -> list[int]:
        """The rounds in which the site has trained, whether their state is still kept or not."""
        path = self._trained_path(site)
        return [int(line) for line in path.read_text().split()] if path.is_file() else []
