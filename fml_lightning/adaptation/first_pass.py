"""The first pass: run a network on some real windows, before anything is trained, to see what it does."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fml_lightning.adaptation.network import in_mode, refuse_other_outputs
from fml_lightning.errors import UserError

WINDOWS = 8
"""Windows of one task that a first pass takes."""


class FirstPass:
    """Tries a network on every new kind of windows, and refuses it if it cannot run or changes a buffer.

    Args:
        net: the network.
        may_change: the buffers that training may change; evaluation may change none.
        learner: the learner's name, for the error.
    """

    def __init__(self, net: nn.Module, may_change: Collection[str], learner: str) -> None:
        self.net = net
        self.may_change = may_change
        self.learner = learner
        self._passed: set[tuple[object, ...]] = set()

    def __call__(self, module: nn.Module, training: bool, *sets: Tensor) -> None:
        """Run the network on windows of the first task, if their kind is new.

        Args:
            module: the module whose mode is set: the learner around the network.
            training: the mode.
            sets: windows, each (T, N, …).

        Raises:
            UserError: the network cannot take the windows, does not return a row for each, or changes a buffer.
        """
        kind = training, sets[0].shape[2:], sets[0].dtype, sets[0].device, next(self.net.parameters()).dtype
        if kind in self._passed:
            return
        with in_mode(module, training), torch.inference_mode(False):
            changed = first_pass(self.net, torch.cat([x[0, :WINDOWS] for x in sets]))
        for name in changed:
            if not training or name not in self.may_change:
                prefix, _, buffer = name.rpartition(".")
                layer = type(self.net.get_submodule(prefix)).__name__
                at_sites = (
                    "; if only training changes it, FedAvg, FedProx and FedBN keep it at each site: personal:"
                    f" [{name}]"
                )
                raise UserError(
                    f"{self.learner}: layer {prefix!r} ({layer}) changes its buffer {buffer!r} in"
                    f" {'training' if training else 'evaluation'}, but buffers are constants, which no round sends"
                    " and no inner loop adapts; exchange the layer (LayerNorm and GroupNorm keep no state) or let"
                    f" it leave the buffer alone{at_sites if name in self.net.state_dict() else ''}"
                )
        self._passed.add(kind)


def first_pass(net: nn.Module, x: Tensor) -> list[str]:
    """Run the network, and name the buffers that it changes; they and all random generators stay as they were.

    Args:
        net: the network, in the mode to try.
        x: some windows, (N, …).

    Raises:
        UserError: the network cannot take the windows, or does not return one tensor with a row per window.
    """
    before = dict(net.named_buffers(remove_duplicate=False))
    copies = {id(buffer): buffer.clone() for buffer in before.values()}  # one for all names of a tied one
    buffers = {name: copies[id(buffer)] for name, buffer in before.items()}
    after = dict(buffers)
    windows = x.clone()
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        try:
            output = functional_call(net, after, (windows,), tie_weights=False)
        except UserError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UserError(_explain(net, x, str(error))) from error
    rows = refuse_other_outputs(net, output).shape[:1]
    if rows != x.shape[:1]:
        raise UserError(
            f"{type(net).__name__}: expected a row of output for each of {len(x)} windows, (N, ...), got"
            f" {tuple(output.shape)} for windows {tuple(x.shape)}"
        )
    changed = [name for name in before if _differ(after[name], buffers[name], before[name])]
    return changed + [name for name, _ in net.named_buffers() if name not in before]


def _differ(after: Tensor, clone: Tensor, before: Tensor) -> bool:
    """Whether a buffer was replaced or written to."""
    if after is not clone or after._version != 0:
        return True
    same = (after == before) | (after.isnan() & before.isnan())  # writing through `.data` leaves the version alone
    return not bool(same.all())


def _explain(net: nn.Module, x: Tensor, error: str) -> str:
    """One sentence about a network that cannot take windows."""
    parameter = next(net.parameters(), x)
    remedy = "let the network's input fit the windows, or the windows the network"
    if parameter.device != x.device:
        remedy = f"move both to one device: the network is on {parameter.device}, the windows are on {x.device}"
    elif parameter.dtype != x.dtype and x.is_floating_point():
        remedy = f"its parameters are {parameter.dtype}, the windows {x.dtype}: convert one of the two"
    return (
        f"{type(net).__name__}: cannot take windows of shape {tuple(x.shape[1:])}, {x.dtype}"
        f" ({error.splitlines()[0] if error else 'no reason given'}); {remedy}"
    )
