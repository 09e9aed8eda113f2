"""The outer loop of a Federation runs in one process."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

from fml_lightning.errors import UserError


def refuse_several_processes(trainer: Trainer) -> None:
    """Refuse a Trainer that would run the same rounds in several processes, or share out what has no parts.

    Every process would let the same sites do the same work, and write to the same memory of theirs.

    Raises:
        UserError: the Trainer has more than one device or node, or a strategy for several.
    """
    if trainer.world_size > 1 or not isinstance(trainer.strategy, SingleDeviceStrategy):
        devices, nodes = trainer.num_devices, trainer.num_nodes
        raise UserError(
            "trainer: a Federation's outer loop runs in one process, and its sites run where the executor puts"
            f" them; expected one device, one node and strategy: auto, got {devices}, {nodes} and"
            f" {type(trainer.strategy).__name__}; set devices: 1"
        )
