"""The network as a pure function of its parameters, for one task and for T tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fml_lightning.adaptation.batch_norm import batch_statistics
from fml_lightning.adaptation.stacking import StackingRule, chained, stacked
from fml_lightning.adaptation.tied_weights import tied_names
from fml_lightning.errors import UserError
from fml_lightning.params import own_names
from fml_lightning.types import Forward, Params, StackedForward

ELEMENTS_PER_PASS = 2**18
"""Numbers of input that go through a network at once where no gradient is needed: 1 MiB in float32. A convolution
of 32 channels makes 32 MiB of them, and a network holds a few such activations at a time."""


class Network:
    """A network as a pure function of its parameters.

    Parameters go by their first names (see `tied_weights`); buffers and training mode are those of `net`.

    Args:
        net: the network; it is not copied.
        tasks_at_once: how many tasks run in one pass; None for what `StackingRule` says.

    Raises:
        UserError: parameters share memory without being one parameter.
    """

    def __init__(self, net: nn.Module, tasks_at_once: int | None = None) -> None:
        self.net = net
        self.tasks_at_once = tasks_at_once
        self.tied = tied_names(net)
        """First name → all names, of tensors with more than one."""
        self._first_names = {other: name for name, same in self.tied.items() for other in same}
        self._rule = StackingRule(net)
        self._recurrent = any(isinstance(layer, nn.RNNBase) for layer in net.modules())
        self._couples_windows: bool | None = None

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        """Outputs for one task: (params, (N, …)) → (N, C).

        Raises:
            UserError: the network returns something other than a tensor.
        """
        if (
            self._recurrent and x.is_cuda
        ):  # cuDNN's recurrent layers have no gradient in evaluation, nor a second one
            with torch.backends.cudnn.flags(enabled=False):
                return self._call(params, x)
        return self._call(params, x)

    def _call(self, params: Params, x: Tensor) -> Tensor:
        return refuse_other_outputs(self.net, functional_call(self.net, params, (x,), tie_weights=bool(self.tied)))

    def tasks_per_pass(self, adapting: Iterable[str]) -> int | None:
        """How many tasks run in one pass if these parameters adapt; None for all."""
        if self.tasks_at_once is not None:
            return self.tasks_at_once
        return None if self._rule.stacks(adapting) else 1

    def outputs(self, adapted: Params, x: Tensor, forward: Forward | None = None) -> Tensor:
        """Outputs of every task: (name → (T, …), (T, N, …)) → (T, N, C).

        Args:
            adapted: each task's parameters, (T, …).
            x: each task's windows.
            forward: what runs in place of the network, for one task.
        """
        by_vmap = stacked(forward or self)
        whole = by_vmap if forward is not None else chained(self.net, by_vmap, self._first_names)
        size = self.tasks_per_pass(own_names(adapted)) or len(x)
        if size >= len(x):
            return whole(adapted, x)
        parts = [slice(begin, begin + size) for begin in range(0, len(x), size)]
        return torch.cat([whole({n: p[i] for n, p in adapted.items()}, x[i]) for i in parts])

    def outputs_in_parts(self, outputs: StackedForward, adapted: Params, x: Tensor) -> Tensor:
        """The same outputs, from passes over at most `ELEMENTS_PER_PASS` numbers of x (but at least a window).

        So the activations of all windows are never held at once. Windows stay together where the network's output
        for one depends on the others.

        Args:
            outputs: runs T tasks, as `outputs` of this object.
            adapted: each task's parameters, (T, …).
            x: each task's windows, (T, N, …).
        """
        tasks = min(self.tasks_per_pass(own_names(adapted)) or len(x), len(x))
        size = max(1, ELEMENTS_PER_PASS // max(1, tasks * x.shape[2:].numel()))
        if size >= x.shape[1] or self._couples(outputs, adapted, x):
            return outputs(adapted, x)
        return torch.cat([outputs(adapted, part) for part in torch.split(x, size, dim=1)], 1)

    def _couples(self, outputs: StackedForward, adapted: Params, x: Tensor) -> bool:
        """Whether a window's output depends on the windows beside it; tried once, on the first ones."""
        if self._couples_windows is None:
            few = {name: p[:1] for name, p in adapted.items()}
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                together, alone = outputs(few, x[:1, :4]), outputs(few, x[:1, :2])
            scale = together.abs().nan_to_num().max().item()
            close = torch.allclose(together[:, :2], alone, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
            self._couples_windows = batch_statistics(self.net) is not None or not close
        return self._couples_windows


def refuse_other_outputs(net: nn.Module, output: object) -> Tensor:
    """The output of a network, if it is a tensor.

    Raises:
        UserError: it is not; saying what it is, and what to do.
    """
    if isinstance(output, Tensor):
        return output
    content = ""
    if isinstance(output, dict):
        content = " of " + ", ".join(map(str, output))
    elif isinstance(output, tuple | list):
        content = " of " + ", ".join(type(part).__name__ for part in output)
    raise UserError(
        f"{type(net).__name__}: expected a network that returns one tensor (N, ...), it returned a"
        f" {type(output).__name__}{content}; wrap it in a module whose forward returns the tensor alone"
    )


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside; every layer's own mode is restored after."""
    modes = {layer: layer.training for layer in module.modules()}
    if not training and not any(modes.values()):
        yield
        return
    module.train(training)
    try:
        yield
    finally:
        module.train(modes[module])
        for layer, own in modes.items():
            layer.training = own
