"""One meta-step, against the peers: time, memory, and share of what the processor could do.

    pip install -c constraints.txt -e '.[bench]'
    python -m benchmarks.meta_step --nets mlp conv1d conv4

The gradient of MAML's meta-loss, in one thread and one process: `ours` by its rule of stacking, against `loop` (a
loop over tasks of `functional_call` and `autograd.grad`: what learn2learn does, whose release does not build on
Python 3.11), `higher` 0.2.1 and `torchopt` 0.7.3 (which has no first-order mode). 5 ways, 1 or 5 shots, 15 query
windows. Methods take turns within every repetition, each first in its turn; the median counts. All must give the
same gradient. All run with `fml`'s setting of the C allocator (`commands/allocator.py`), unless --trim.

`cpu_ms`, `wall_ms` and `peak_MiB` (memory above what was held before) per meta-step; `speedup` is the fastest
peer's CPU time over ours; `of_floor` the floating-point operations of the plain loop over what a large matrix
product manages in our time. Prints the table; writes benchmarks/results/meta_step.json, which several calls
with some of --nets and --tasks fill together.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import higher
import torch
import torchopt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import RESULTS, measured, print_table, write
from fml_lightning import MAML, Conv1d, Conv4, Episode, Examples, InnerLoop, Params
from fml_lightning.commands.allocator import keep_freed_memory

CELL = ("net", "order", "shots", "K", "T")
WAYS, QUERIES, LR = 5, 15, 0.1
Gradient = Callable[[], list[Tensor]]
Setting = tuple[nn.Module, tuple[int, ...]]
Maker = Callable[[nn.Module, Episode, int, bool], Gradient]


def mlp() -> Setting:
    """32-64-64-5 with ReLU."""
    layers = [nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, WAYS)]
    return nn.Sequential(*layers), (32,)


def conv1d() -> Setting:
    """Four layers of 32 filters, GroupNorm."""
    return Conv1d(1, WAYS, channels=(32, 32, 32, 32)), (1, 1024)


def conv4() -> Setting:
    """Four layers of 64 filters, GroupNorm."""
    return Conv4(1, WAYS, channels=64), (1, 28, 28)


NETS = {"mlp": mlp, "conv1d": conv1d, "conv4": conv4}


def episode(shape: tuple[int, ...], tasks: int, shots: int) -> Episode:
    """Windows of noise."""

    def examples(n: int) -> Examples:
        labels = torch.arange(WAYS).repeat(n // WAYS).expand(tasks, -1).contiguous()
        return Examples(torch.randn(tasks, n, *shape), labels)

    return Episode(examples(WAYS * shots), examples(QUERIES))


def ours(net: nn.Module, data: Episode, steps: int, first_order: bool) -> Gradient:
    """This package, by its own rule of stacking."""
    learner = MAML(net, inner_loop=InnerLoop(LR, steps, first_order))
    return lambda: list(learner.meta_gradient(data)[1].values())


def loop(net: nn.Module, data: Episode, steps: int, first_order: bool) -> Gradient:
    """Task by task: learn2learn's algorithm without its modules."""
    initial: Params = dict(net.named_parameters())

    def gradient() -> list[Tensor]:
        total = [torch.zeros_like(p) for p in initial.values()]
        for t in range(data.tasks):
            params = initial
            for _ in range(steps):
                loss = F.cross_entropy(functional_call(net, params, (data.support.x[t],)), data.support.y[t])
                grads = torch.autograd.grad(loss, list(params.values()), create_graph=not first_order)
                params = {n: p.sub(s, alpha=LR) for (n, p), s in zip(params.items(), grads, strict=True)}
            loss = F.cross_entropy(functional_call(net, params, (data.query.x[t],)), data.query.y[t]) / data.tasks
            for sum_, grad in zip(total, torch.autograd.grad(loss, list(initial.values())), strict=True):
                sum_.add_(grad)
        return total

    return gradient


def by_higher(net: nn.Module, data: Episode, steps: int, first_order: bool) -> Gradient:
    """The library `higher`, https://github.com/facebookresearch/higher."""
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)

    def gradient() -> list[Tensor]:
        total = [torch.zeros_like(p) for p in net.parameters()]
        for t in range(data.tasks):
            with higher.innerloop_ctx(
                net, optimizer, copy_initial_weights=False, track_higher_grads=not first_order
            ) as (functional, inner):
                for _ in range(steps):
                    inner.step(F.cross_entropy(functional(data.support.x[t]), data.support.y[t]))
                loss = F.cross_entropy(functional(data.query.x[t]), data.query.y[t]) / data.tasks
                at = list(functional.parameters()) if first_order else list(net.parameters())
                for sum_, grad in zip(total, torch.autograd.grad(loss, at), strict=True):
                    sum_.add_(grad)
        return total

    return gradient


def by_torchopt(net: nn.Module, data: Episode, steps: int, first_order: bool) -> Gradient:
    """The library `torchopt`, https://github.com/metaopt/torchopt."""

    def gradient() -> list[Tensor]:
        net.zero_grad()
        inner = torchopt.MetaSGD(net, lr=LR)
        start = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
        state = torchopt.extract_state_dict(inner, by="reference")
        for t in range(data.tasks):
            for _ in range(steps):
                inner.step(F.cross_entropy(net(data.support.x[t]), data.support.y[t]))
            loss: Any = F.cross_entropy(net(data.query.x[t]), data.query.y[t]) / data.tasks
            loss.backward()
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(inner, state)
        return [p.grad for p in net.parameters() if p.grad is not None]

    return gradient


def _vector(gradient: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in gradient])


def peak_mib(gradient: Gradient) -> float:
    """MiB of resident memory that one call holds at most, above what was held before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident("VmRSS")
    gradient()
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def sgemm_gflops() -> float:
    """GFLOP/s of a large matrix product, in this thread, now."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(9):
        began = time.process_time()
        a @ a
        times.append(time.process_time() - began)
    return 2 * 1024**3 / statistics.median(times) / 1e9


def cell(name: str, tasks: int, steps: int, first_order: bool, shots: int, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    net, shape = NETS[name]()
    data = episode(shape, tasks, shots)
    makers: dict[str, Maker] = {"ours": ours, "loop": loop, "higher": by_higher}
    if not first_order:
        makers["torchopt"] = by_torchopt
    methods = {method: make(net, data, steps, first_order) for method, make in makers.items()}
    expected = _vector(methods["loop"]())
    for method, gradient in methods.items():
        # Ties of ReLU and pooling, broken by rounding in float32, may turn a few windows another way.
        difference = (_vector(gradient()) - expected).norm() / expected.norm()
        assert difference < 0.05, f"{method} gives another gradient, {difference:.1e} away"
    with FlopCounterMode(display=False) as counter:
        methods["loop"]()
    cpu: dict[str, list[float]] = {method: [] for method in methods}
    wall: dict[str, list[float]] = {method: [] for method in methods}
    speeds = []
    with measured() as spent:
        methods["ours"]()
    calls = max(1, int(0.05 / spent.wall))  # what takes less than the clock's grain is repeated
    order = list(methods)
    for _ in range(repeats):
        speeds.append(sgemm_gflops())
        order.append(order.pop(0))
        for method in order:
            with measured() as spent:
                for _ in range(calls):
                    methods[method]()
            cpu[method].append(1e3 * spent.cpu / calls)
            wall[method].append(1e3 * spent.wall / calls)
    median = {method: statistics.median(times) for method, times in cpu.items()}
    peer = min((m for m in methods if m != "ours"), key=lambda m: median[m])
    row: dict[str, Any] = {
        "net": name,
        "order": 1 if first_order else 2,
        "shots": shots,
        "K": steps,
        "T": tasks,
        "speedup": round(median[peer] / median["ours"], 2),
        "fastest_peer": peer,
    }
    for method in ("ours", "loop", "higher", "torchopt"):
        row[f"{method}_cpu_ms"] = round(median[method], 1) if method in methods else "-"
    row["ours_wall_ms"] = round(statistics.median(wall["ours"]), 1)
    row["of_floor"] = round(counter.get_total_flops() / (1e6 * median["ours"]) / statistics.median(speeds), 3)
    for method in ("ours", "loop", "higher", "torchopt"):
        row[f"{method}_peak_MiB"] = round(peak_mib(methods[method])) if method in methods else "-"
    return row


def main() -> None:
    """Measure every cell, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--tasks", nargs="+", type=int, default=[4, 16, 32, 64])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--trim", action="store_true", help="leave the C allocator as it is by default")
    options = parser.parse_args()
    if not options.trim:
        keep_freed_memory()
    warnings.filterwarnings("ignore")  # the peers' deprecations
    torch.set_num_threads(1)
    path = RESULTS / "meta_step.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    for name in options.nets:
        for shots in (1, 5) if name == "mlp" else (1,):
            for first_order in (False, True):
                for steps in (1, 5):
                    for tasks in options.tasks:
                        row = cell(name, tasks, steps, first_order, shots, options.repeats)
                        print(row, flush=True)
                        rows = [r for r in rows if any(r[key] != row[key] for key in CELL)] + [row]
                        write("meta_step", rows, repeats=options.repeats, trim=options.trim)
    print_table(rows)
    slow = [row for row in rows if row["speedup"] < 0.9]
    print(f"{len(slow)} of {len(rows)} cells are more than 10 % slower than the fastest peer")


if __name__ == "__main__":
    main()
