"""What a user reads of a run: a table and a bar chart of each machine before and after adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import polars as pl
import torch
from torch import Tensor

from fml_lightning.errors import UserError
from fml_lightning.federation.machine_result import MachineResult
from fml_lightning.types import Prediction


def table(results: Sequence[MachineResult], metric: str) -> str:
    """One line per machine, and their mean.

    >>> print(table([MachineResult("plant5", "pump", 0.25, 0.95)], "accuracy"))
    site    machine  accuracy before -> after adaptation
    plant5  pump     0.250 -> 0.950
    mean             0.250 -> 0.950
    """
    mean = MachineResult("mean", "", fmean(r.before for r in results), fmean(r.after for r in results))
    rows = [
        ("site", "machine", f"{metric} before -> after adaptation"),
        *((r.site, r.machine, f"{r.before:.3f} -> {r.after:.3f}") for r in [*results, mean]),
    ]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows)


def bar_chart(results: Sequence[MachineResult], metric: str, title: str, path: Path) -> Path:
    """Draw before and after of each machine to a PNG.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("the bar chart needs matplotlib; pip install 'fml-lightning[plot]'") from error
    figure = Figure(figsize=(max(5.0, 1.6 + 0.55 * len(results)), 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    places = range(len(results))
    series = (
        ("before adaptation", [r.before for r in results], "#b8bec6", -0.2),
        ("after adaptation", [r.after for r in results], "#1f6f8b", 0.2),
    )
    for label, heights, colour, offset in series:
        axes.bar([p + offset for p in places], heights, 0.4, label=label, color=colour)
    axes.set_xticks(list(places), [r.machine for r in results], rotation=40, ha="right", fontsize=8)
    axes.set_ylabel(metric)
    if metric.endswith("accuracy"):
        axes.set_ylim(0, 1)
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def prediction_table(predictions: Sequence[Prediction], classes: Sequence[str]) -> pl.DataFrame:
    """One row per query window: machine, window, true and predicted class, and the probability of each class.

    Where outputs are one number per window, such as a remaining life, the columns are `target` and `predicted`.
    """
    outputs_each = max(prediction.outputs.shape[-1] for prediction in predictions)
    classes = [*classes, *(f"output{i}" for i in range(len(classes), outputs_each))]
    frames = []
    for prediction in predictions:
        masks = prediction.mask if prediction.mask is not None else torch.ones(prediction.targets.shape[:2]).bool()
        for machine, targets, outputs, mask in zip(*prediction[:3], masks, strict=True):
            frames.append(_predicted(machine, targets[mask], outputs[mask], classes))
    return pl.concat(frames)


def _predicted(machine: str, targets: Tensor, outputs: Tensor, classes: Sequence[str]) -> pl.DataFrame:
    rows = {"machine": [machine] * len(targets), "window": range(len(targets))}
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        return pl.DataFrame({**rows, "target": targets.flatten().numpy(), "predicted": outputs.flatten().numpy()})
    return pl.DataFrame(
        {
            **rows,
            "label": [classes[t] for t in targets],
            "predicted": [classes[o] for o in outputs.argmax(-1)],
            **{f"p_{name}": outputs[:, i].numpy() for i, name in enumerate(classes)},
        }
    )
