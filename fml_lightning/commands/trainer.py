"""Lightning's Trainer with the one verb it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from fml_lightning.commands.personal_models import personalize_each, personalize_machine
from fml_lightning.datamodules import Fleet
from fml_lightning.executors import SiteMemory
from fml_lightning.federation import Federation
from fml_lightning.personal.personalization import Personalization
from fml_lightning.personal.registry import MACHINES, Registry


class Trainer(pl.Trainer):
    """Lightning's Trainer, which can personalize too."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Train the federation, one step a round."""
        super().fit(*args, **kwargs)

    def validate(self, *args: Any, **kwargs: Any) -> Any:
        """Measure the training sites on windows later than those they trained on."""
        return super().validate(*args, **kwargs)

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Measure the unseen sites."""
        return super().test(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Adapt to every unseen machine and predict its later windows."""
        return super().predict(*args, **kwargs)

    def personalize(
        self,
        model: Federation,
        datamodule: Fleet,
        machine: str,
        ckpt_path: str | None = None,
        limit: float | None = None,
        normal: str = "",
    ) -> list[Personalization]:
        """Adapt the trained initialization to a machine; the caller keeps what comes back.

        Args:
            model: the federation.
            datamodule: the fleet that the machine belongs to.
            machine: The machine's name, SITE/MACHINE, or all for every machine of the unseen sites.
            ckpt_path: A checkpoint's path (on the command line also last or best, of this config's newest run).
            limit: Where targets are numbers: beyond it a machine is sick, such as a remaining life below 20 (in
                the unit of the data); that of the machine's current model unless set.
            normal: Where labels are classes: the one of normal operation; what the data say, or the machine's
                current model, or one that is called normal, healthy or ok, unless set.

        Raises:
            UserError: there is no such machine, or no such class.
            PartlyPersonalizedError: some of all machines cannot be personalized; it holds the others.
        """
        if ckpt_path is not None:
            checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True)
            model.load(checkpoint)
        datamodule.setup("predict")
        model.standardize(datamodule)
        registry = Registry(Path(self.default_root_dir) / MACHINES)
        memory = SiteMemory.below(self.default_root_dir, frozenset(model.stateful_sites))
        rounds, seed = int(model.rounds), torch.initial_seed()
        machines = datamodule.unseen_machines_at() if machine == "all" else [datamodule.machine_at(machine)]
        return personalize_each(
            machines,
            lambda site, name: personalize_machine(
                model.learner, memory, rounds, site, name, datamodule.classes, seed, limit, registry, normal
            ),
        )
