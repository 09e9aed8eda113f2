"""A fleet whose sites are elsewhere: names alone, for a Federation that asks real sites over a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

from lightning.pytorch import LightningDataModule

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.fleet import Fleet, checked_classes, with_normal
from fml_lightning.errors import UserError
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.preprocessing.statistics import Statistics


class RemoteSite(LightningDataModule):
    """A site on a host of its own: it stands for the site in the batch of a round, and has no data.

    Args:
        name: as the site's certificate has it.
        weight: how much each of its windows counts beside those of other sites, above 0.
        classes: what labels must mean at the site; empty: whatever they mean.
    """

    tells_sums = True
    """The site itself says whether it is standardized by the training sites."""

    def __init__(self, name: str, weight: float = 1.0, classes: Sequence[str] = ()) -> None:
        super().__init__()
        self.name = name
        self.weight = weight
        self.classes = tuple(classes)

    def setup(self, stage: str) -> NoReturn:
        """Refuse to be worked on in this process.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.name}: its data are at the site, not here; set executor: NVFlareExecutor, which asks the site"
        )

    # Lightning and the rehearsal look for these before they call setup.
    def train_dataloader(self) -> NoReturn:
        """Refuse, as `setup` does."""
        self.setup("fit")

    def val_dataloader(self) -> NoReturn:
        """Refuse, as `setup` does."""
        self.setup("validate")

    def test_dataloader(self) -> NoReturn:
        """Refuse, as `setup` does."""
        self.setup("test")

    @property
    def machine_names(self) -> NoReturn:
        """Refuse: the site alone knows its machines.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.name}: its machines are at the site, not here; look at them there, with fml inspect and a"
            " configuration of the site's data"
        )


class RemoteFleet(Fleet):
    """Sites on hosts of their own, by the names in their certificates; no data of theirs are here.

    Each site says in its own `site.yaml` what its data are. What is said here of episodes and units serves the
    charts and tables of a run. So do the classes; besides, a site that has others is refused.

    Args:
        sites: names of the sites that train.
        classes: the name of each class, in the order of labels; of targets that are numbers, their one name.
        unseen: names of sites that are never trained on, only tested.
        weights: how much each of a site's windows counts, by the site's name, above 0; 1 where nothing is said.
        episodes: how the sites draw episodes, as their own configurations say.
        target_unit: the unit of targets that are numbers, such as `cycles`.
    """

    sites: dict[str, RemoteSite]  # type: ignore[assignment]
    unseen: dict[str, RemoteSite]  # type: ignore[assignment]

    def __init__(
        self,
        sites: Sequence[str],
        classes: Sequence[str],
        unseen: Sequence[str] = (),
        weights: Mapping[str, float] = {},
        episodes: Episodes = Episodes(),  # noqa: B008
        target_unit: str | None = None,
    ) -> None:
        super().__init__(Preprocessing(), episodes)
        self.classes = checked_classes("RemoteFleet", classes)
        self.episodes = with_normal("RemoteFleet", episodes, self.classes)
        self.target_unit = target_unit
        names = [*sites, *unseen]
        if not sites or not all(names) or len(set(names)) < len(names):
            raise UserError(
                "RemoteFleet: expected the names of sites, each once, at least one to train on; got sites"
                f" {list(sites)} and unseen {list(unseen)}"
            )
        for name, weight in weights.items():
            if name not in names:
                raise UserError(f"RemoteFleet: weights names {name!r}, which is none of {', '.join(names)}")
            if not 0 < weight < math.inf:
                raise UserError(f"RemoteFleet: expected weights above 0, got {weight} of {name}")

        def named(several: Sequence[str]) -> dict[str, RemoteSite]:
            return {name: RemoteSite(name, weights.get(name, 1.0), self.classes) for name in several}

        self.sites = named(sites)
        self.unseen = named(unseen)

    def setup(self, stage: str) -> None:
        """Nothing: the names are at hand."""

    def standardize_by(self, statistics: Statistics) -> bool:
        """Nothing: each request tells the sites the run's statistics."""
        return True

    def read(self) -> NoReturn:
        """Refuse: there is nothing to read.

        Raises:
            UserError: always.
        """
        raise UserError("RemoteFleet: its sites' data are on hosts of their own; nothing of them can be read here")

    def predict_dataloader(self) -> NoReturn:
        """Refuse: machines are personalized, and predicted for, where they are.

        Raises:
            UserError: always.
        """
        self._refuse()

    def machine_at(self, machine: str) -> NoReturn:
        """Refuse, likewise."""
        self._refuse()

    def unseen_machines_at(self) -> NoReturn:
        """Refuse, likewise."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(
            "RemoteFleet: machines and their data are at the sites, not here; fetch the checkpoint at the site"
            " with fml fetch, and run fml personalize --site site.yaml there"
        )
