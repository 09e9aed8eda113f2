"""What a user reads of a run: a table and a bar chart of each machine before and after adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from shutil import get_terminal_size
from statistics import fmean
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from torch import Tensor

from fml_lightning.commands.run.run_folder import write_json
from fml_lightning.datamodules import Episodes
from fml_lightning.errors import UserError
from fml_lightning.federation.machine_result import MachineResult
from fml_lightning.names import columns, shown
from fml_lightning.objectives import Objective
from fml_lightning.personal.screening import OWN_CLOCK
from fml_lightning.types import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MANY = 40
"""Machines beyond which a chart shows the worst and how all are distributed."""
WORST = 20
"""How many of them it then shows one by one."""
BEFORE, AFTER = "#b8bec6", "#1f6f8b"
"""Colours of the bars."""
LABEL = 24
"""Characters of a machine's name below its bar."""
FEW_CLASSES = 20
"""Most classes of which a table of predictions shows every probability; of more it shows the likeliest."""
LIKELIEST = 3
"""How many it then shows."""
SHOWN_COLUMNS = 10
"""Columns of that table that are printed; of more, the middle ones are not."""
WIDTH = 140
"""Characters of a printed line, where there is no terminal to ask."""


def table(results: Sequence[MachineResult], metric: str, higher_is_better: bool = True) -> str:
    """One line per machine, their mean, and of several the one that is worst after adaptation.

    >>> pump, fan = MachineResult("plant5", "pump", 0.25, 0.95), MachineResult("plant6", "fan", 0.75, 0.85)
    >>> print(table([pump, fan], "accuracy"))
    site    machine  accuracy before -> after adaptation
    plant5  pump     0.250 -> 0.950
    plant6  fan      0.750 -> 0.850
    mean             0.500 -> 0.900
    worst   fan      0.750 -> 0.850
    """
    worst = sorted(results, key=lambda result: result.after, reverse=not higher_is_better)[: len(results) > 1]
    mean = MachineResult("mean", "", fmean(r.before for r in results), fmean(r.after for r in results))
    rows = [
        ("site", "machine", f"{metric} before -> after adaptation"),
        *(_row(shown(result.site), result) for result in results),
        _row("mean", mean),
        *(_row("worst", result) for result in worst),
    ]
    widths = [max(columns(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{_padded(a, widths[0])}  {_padded(b, widths[1])}  {c}" for a, b, c in rows)


def _row(name: str, result: MachineResult) -> tuple[str, str, str]:
    machine = result.machine and shown(result.machine)
    return name, machine, f"{result.before:.3f} -> {result.after:.3f}"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def chart_title(run: str, episodes: Episodes, classes: int = 2) -> str:
    """What a chart's machines were adapted on.

    Args:
        run: its name.
        episodes: how support sets are drawn.
        classes: how many there are; of targets that are numbers, one.

    >>> chart_title("demo", Episodes(shots=1))
    'demo: adapted on 1 labelled window per class'
    >>> chart_title("demo", Episodes(shots=9, support="first", of="as they come", permute_labels=False))
    'demo: adapted on the first 9 windows'
    >>> chart_title("engines", Episodes(shots=5, per="recording", of="as they come"))
    'engines: adapted on 5 recordings'
    """
    first = "the first " if episodes.support == "first" else ""
    units = f"{episodes.per}{'s' * (episodes.shots > 1)}"
    if episodes.of == "as they come":
        return f"{run}: adapted on {first}{episodes.shots} {units}"
    if episodes.of == "normal only" or episodes.normal is not None:
        return f"{run}: adapted on {first}{episodes.shots} normal {units}"
    each = " per class" if classes > 1 else ""
    return f"{run}: adapted on {first}{episodes.shots} labelled {units}{each}"


def bar_chart(
    results: Sequence[MachineResult], metric: str, title: str, path: Path, higher_is_better: bool = True
) -> Path:
    """Draw before and after of each machine to a PNG; of many machines, the worst and a histogram of all.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        figure = chart(results, metric, title, higher_is_better)
    except ImportError as error:
        raise UserError("the bar chart needs matplotlib; pip install 'fml-lightning[plot]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def chart(results: Sequence[MachineResult], metric: str, title: str, higher_is_better: bool = True) -> Figure:
    """The chart itself: one bar before and one after adaptation for each machine that is shown."""
    from matplotlib.figure import Figure

    many = len(results) > MANY
    bars = sorted(results, key=lambda r: r.after, reverse=not higher_is_better)[:WORST] if many else results
    figure = Figure(
        figsize=(max(5.0, 1.6 + 0.55 * len(bars)), 7.6 if many else 4.2), dpi=120, layout="constrained"
    )
    axes, *below = figure.subplots(2 if many else 1, squeeze=False)[:, 0]
    places = range(len(bars))
    for label, heights, colour, offset in (
        ("before adaptation", [r.before for r in bars], BEFORE, -0.2),
        ("after adaptation", [r.after for r in bars], AFTER, 0.2),
    ):
        axes.bar([p + offset for p in places], heights, 0.4, label=label, color=colour)
    axes.set_xticks(list(places), [_drawable(r.machine) for r in bars], rotation=40, ha="right", fontsize=8)
    for text in axes.get_xticklabels():
        text.set_parse_math(False)
    axes.set_ylabel(metric, parse_math=False)
    axes.set_title(_drawable(title, 90), fontsize=11, loc="left", parse_math=False)
    if many:
        axes.set_title(f"the {WORST} worst of {len(results)} machines", fontsize=8, loc="right")
        axes.set_title("", loc="left")
        figure.suptitle(_drawable(title, 90), fontsize=11, x=0.01, ha="left", parse_math=False)
        below[0].hist([[r.before for r in results], [r.after for r in results]], bins=30, color=[BEFORE, AFTER])
        below[0].set_xlabel(f"{metric} of all {len(results)} machines", parse_math=False)
        below[0].set_ylabel("machines")
    if metric.endswith("accuracy"):
        axes.set_ylim(0, 1)
        for each in below:
            each.set_xlim(0, 1)
    for each in (axes, *below):
        each.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    return figure


def _drawable(name: str, longest: int = LABEL) -> str:
    """The name as the chart's font can draw it: characters that the font lacks are escaped."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    made = "".join(
        c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in shown(name, longest)
    )
    return shown(made, longest)


def prediction_table(
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    names: Callable[[str, str], Sequence[str]] | None = None,
) -> pl.DataFrame:
    """One row per query window: its site, machine and number, true and predicted class, each class's probability.

    The windows of a machine are in order of time, and numbered so, where anybody says when they began. `time` is
    that of their first sample, UTC. Of machines whose data do not tell the time of day, `seconds` takes its place,
    since the machine's first recording began. Each column is null where a machine has the other, and is left out
    where no machine has it.

    Of more than `FEW_CLASSES` classes, such as the characters of a keyboard, the `LIKELIEST` take the place of
    all: `predicted`, `predicted_2`, `predicted_3`, and their probabilities `p_1`, `p_2`, `p_3`.

    Where each token of a window has a class, the rows are tokens, with a column `token`. Where outputs are one
    number per window, such as a remaining life, the columns are `target` and `predicted`. `label` and `target` are
    null of windows that have none: a label below 0, or NaN.

    Args:
        predictions: of the machines in any order.
        classes: name of each label, and of each column of probabilities.
        names: of a site and a machine, the names of its labels, where it has `classes` in an order of its own.
    """
    outputs_each = max(prediction.outputs.shape[-1] for prediction in predictions)
    more = [f"output{i}" for i in range(len(classes), outputs_each)]
    every = [*classes, *more]
    frames = []
    for prediction in predictions:
        masks = prediction.mask if prediction.mask is not None else torch.ones(prediction.targets.shape[:2]).bool()
        clocks = [None] * len(masks) if prediction.starts is None else prediction.starts
        for machine, targets, outputs, mask, starts in zip(*prediction[:3], masks, clocks, strict=True):
            own = every if names is None else [*names(prediction.site, machine), *more]
            order = mask.nonzero().flatten()
            if starts is not None:
                order = order[starts[order].argsort(stable=True)]
            windows = _windows(prediction.site, machine, len(order), None if starts is None else starts[order])
            frames.append(_predicted(windows, targets[order], outputs[order], every, own))
    frame = pl.concat(frames)
    return frame.drop([name for name in ("time", "seconds") if frame[name].is_null().all()])


def _windows(site: str, machine: str, count: int, starts: Tensor | None) -> pl.DataFrame:
    """Which windows of which machine: `site`, `machine`, `window`, and when they began, `time` or `seconds`."""
    # polars takes no half of a surrogate pair
    site, machine = (name.encode("utf-8", "backslashreplace").decode() for name in (site, machine))
    began = [None] * count if starts is None else starts.tolist()
    is_told = starts is not None and bool((starts >= OWN_CLOCK).all())
    return pl.DataFrame(
        {"site": [site] * count, "machine": [machine] * count, "window": range(count)}
    ).with_columns(
        pl.Series("time", began if is_told else [None] * count, pl.Int64).cast(pl.Datetime("us", "UTC")),
        pl.Series("seconds", [None] * count if is_told else began, pl.Int64) / 1e6,
    )


def _predicted(
    windows: pl.DataFrame, targets: Tensor, outputs: Tensor, classes: Sequence[str], own: Sequence[str]
) -> pl.DataFrame:
    """The rows of one machine's `windows`, whose labels are called `own`: `classes` in any order."""
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        return windows.with_columns(
            target=_known(targets.flatten()), predicted=pl.Series(outputs.flatten().numpy())
        )
    if targets.ndim > 1:  # a class for each of L tokens
        rows, tokens = torch.cartesian_prod(*(torch.arange(size) for size in targets.shape)).T
        windows = windows[rows.numpy()]
        windows.insert_column(windows.get_column_index("window") + 1, pl.Series("token", tokens.numpy()))
        targets, outputs = targets.flatten(), outputs.flatten(0, 1)
    labels = [own[label] if label >= 0 else None for label in targets.tolist()]
    windows = windows.with_columns(pl.Series("label", labels, pl.String))
    if len(classes) <= FEW_CLASSES:
        return windows.with_columns(
            pl.Series("predicted", [own[o] for o in outputs.argmax(-1)]),
            *(pl.Series(f"p_{name}", outputs[:, own.index(name)].numpy()) for name in classes),
        )
    probabilities, likeliest = outputs.topk(LIKELIEST, dim=-1)
    return windows.with_columns(
        *(
            pl.Series(f"predicted_{k + 1}" if k else "predicted", [own[o] for o in likeliest[:, k]])
            for k in range(LIKELIEST)
        ),
        *(pl.Series(f"p_{k + 1}", probabilities[:, k].numpy()) for k in range(LIKELIEST)),
    )


def _known(targets: Tensor) -> pl.Series:
    """Targets or labels, null where a window has none."""
    said = pl.Series(targets.numpy())
    return said.fill_nan(None) if targets.is_floating_point() else said.set(said < 0, None)


def shown_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """The same table to print, with names from outside as a terminal may have them."""
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    return frame.with_columns(
        pl.col(name).replace({value: shown(value) for value in frame[name].drop_nulls().unique()})
        for name in texts
    ).rename({name: shown(name) for name in frame.columns})


def write_report(
    verb: str,
    content: dict[str, Any],
    results: Sequence[MachineResult],
    folder: Path,
    objective: Objective,
    unit: str | None,
    title: str,
) -> None:
    """Write `VERB.json` and the chart, print the table, and name what was written.

    Args:
        verb: what was done.
        content: of the file, beside the machines' results.
        results: of each machine.
        folder: where both are written.
        objective: whose metric it is.
        unit: of the metric, if it has one.
        title: of the chart.

    Raises:
        UserError: nothing was measured.
    """
    if not results:
        raise UserError(f"{verb}: nothing was measured; the fleet needs sites, and limits above 0")
    metric = f"{objective.metric} ({unit})" if unit else objective.metric
    path = write_json(folder / f"{verb}.json", {"machines": [asdict(result) for result in results], **content})
    try:
        chart = f", {bar_chart(results, metric, title, path.with_suffix('.png'), objective.higher_is_better)}"
    except UserError as error:
        chart = f" ({error})"
    print(table(results, metric, objective.higher_is_better))
    print(f"wrote {path}{chart}")


def write_predictions(frame: pl.DataFrame, folder: Path, unit: str | None) -> None:
    """Write `predict.parquet`, and print the table.

    Args:
        frame: as `prediction_table` gives it.
        folder: where it is written.
        unit: of the targets, if they are numbers and have one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "predict.parquet"
    frame.write_parquet(path)
    with pl.Config(tbl_cols=SHOWN_COLUMNS, tbl_width_chars=get_terminal_size((WIDTH, 0)).columns):
        print(shown_frame(frame))
    print(f"wrote {path}" + (f", target and predicted in {unit}" if unit and "target" in frame.columns else ""))
