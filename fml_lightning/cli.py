"""The command line: LightningCLI's fit, validate, test and predict, plus personalize."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import polars as pl_frames
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from fml_lightning import run_folder
from fml_lightning.datamodules import Fleet
from fml_lightning.errors import UserError
from fml_lightning.federation import Federation
from fml_lightning.personalize import Personalization, personalize
from fml_lightning.progress import RoundProgress
from fml_lightning.report import bar_chart, table
from fml_lightning.types import MachineResult, Prediction

DEMO = Path(__file__).parent / "configs" / "demo.yaml"
"""What runs without --config: a simulated fleet, no data and no server."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status: 0; 1 or 2 for what the user can mend; 130 if interrupted."""
    quieten()
    arguments = list(arguments)
    needs_no_demo = {"--config", "-c", "--help", "-h"} & {argument.split("=")[0] for argument in arguments}
    if arguments and arguments[0] in FMLCommand.subcommands() and not needs_no_demo:
        print("fml: no --config given: using the simulated fleet of configs/demo.yaml", file=sys.stderr)
        arguments[1:1] = ["--config", str(DEMO)]
    sys.argv = ["fml", *arguments]
    try:
        FMLCommand()
    except (UserError, MisconfigurationException, OSError) as error:
        print(f"fml: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fml: interrupted; go on with --ckpt_path last", file=sys.stderr)
        return 130
    return 0


class Trainer(pl.Trainer):
    """Lightning's Trainer, which can personalize too."""

    def personalize(
        self, model: Federation, datamodule: Fleet, machine: str, ckpt_path: str = "last"
    ) -> list[Personalization]:
        """Adapt the trained initialization to one machine and write that machine's own model.

        Args:
            model: the federation.
            datamodule: the fleet that the machine belongs to.
            machine: The machine's name, or all for every machine of the unseen sites.
            ckpt_path: A checkpoint's path, or last for the newest run of this config.
        """
        checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["state_dict"])
        names = datamodule.unseen_machines() if machine == "all" else [machine]
        return [
            personalize(
                model.learner,
                datamodule.site_of(name).personal_episode(name, seed=torch.initial_seed()),
                datamodule.classes,
            )
            for name in names
        ]


class FMLCommand(LightningCLI):
    """One command: parses it, builds fleet, federation and Trainer from YAML, runs it, and reports."""

    trainer: Trainer
    model: Federation
    datamodule: Fleet

    def __init__(self) -> None:
        super().__init__(
            model_class=Federation,
            datamodule_class=Fleet,
            subclass_mode_data=True,
            trainer_class=Trainer,
            trainer_defaults={
                "default_root_dir": "runs",
                "accelerator": "cpu",
                "max_epochs": -1,
                "max_steps": 60,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 1,
            },
            seed_everything_default=0,
            save_config_callback=_SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            auto_configure_optimizers=False,
            parser_class=_Parser,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and which of their arguments are not for the command line."""
        measuring = {"model", "dataloaders", "datamodule", "verbose", "weights_only"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": measuring,
            "test": measuring,
            "predict": {*measuring, "return_predictions"},
            "personalize": {"model", "datamodule"},
        }

    def before_instantiate_classes(self) -> None:
        """Find the run's folder and the checkpoint, before anything slow begins."""
        config = self.config[self.config.subcommand]
        root = Path(config.trainer.default_root_dir)
        name = Path(str(config.config[-1])).stem if config.get("config") else DEMO.stem
        if self.config.subcommand == "fit":
            resumed = run_folder.latest(root, name) if config.ckpt_path == "last" else None
            if config.ckpt_path is not None and not (resumed and not run_folder.checkpoint(resumed).exists()):
                self.ckpt_path: Path | None = run_folder.find_checkpoint(root, name, config.ckpt_path)
            else:  # nothing was saved before the interruption: the same run, from round 0
                self.ckpt_path = None
            self.folder = resumed or run_folder.new(root, name)
        else:
            self.ckpt_path = run_folder.find_checkpoint(root, name, config.ckpt_path or "last")
            self.folder = run_folder.owner(self.ckpt_path, root) or root / name

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer of the outer loop, with the callbacks of every run."""
        config = self._get(self.config_init, "trainer")
        fitting = self.subcommand == "fit"
        config["default_root_dir"] = str(self.folder)
        if config.get("logger") is None:
            config["logger"] = CSVLogger(self.folder, name="logs") if fitting else False
        callbacks = config.get("callbacks") or []
        if config.get("enable_progress_bar") is not False:
            callbacks = [RoundProgress(), *callbacks]
        if fitting and config.get("enable_checkpointing") is not False:
            folder = self.folder / run_folder.CHECKPOINTS
            callbacks = [*callbacks, ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_epochs=1)]
        config["callbacks"] = callbacks
        trainer = super().instantiate_trainer(**kwargs)
        assert isinstance(trainer, Trainer)
        return trainer

    def fit(self, **_: Any) -> None:
        """Train, then measure the training sites and the unseen ones."""
        began = time.perf_counter()
        print(f"run folder: {self.folder}" + (f", resumed from {self.ckpt_path}" if self.ckpt_path else ""))
        try:
            self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.ckpt_path, weights_only=True)
        except SystemExit:
            if self.trainer.interrupted:
                raise KeyboardInterrupt from None
            raise
        metrics = {"rounds": self.trainer.global_step, **self._metrics()}
        self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        metrics |= self._metrics()
        if self.datamodule.unseen:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
            metrics |= self._metrics()
        self._report({**metrics, "seconds": time.perf_counter() - began}, self.model.results)

    def validate(self, **_: Any) -> None:
        """Measure the training sites on their late windows."""
        self._measure(self.trainer.validate)

    def test(self, **_: Any) -> None:
        """Measure the unseen sites."""
        self._measure(self.trainer.test)

    def predict(self, **_: Any) -> None:
        """Personalize every unseen machine and predict its late windows, into predict.parquet."""
        predictions: Any = self.trainer.predict(
            self.model, datamodule=self.datamodule, ckpt_path=self.ckpt_path, weights_only=True
        )
        frame = pl_frames.concat(_frame(prediction, self.datamodule.classes) for prediction in predictions)
        path = self.folder / "predict.parquet"
        self.folder.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
        print(frame)
        print(f"wrote {path}")

    def personalize(self, machine: str, **_: Any) -> None:
        """Write each machine's model and card; print the cards, or a table of several."""
        results = self.trainer.personalize(self.model, self.datamodule, machine, str(self.ckpt_path))
        metric = self.model.learner.objective.metric
        cards = []
        for result in results:
            model = self.folder / "machines" / f"{result.machine}.pt"
            card = {
                "machine": result.machine,
                "site": self.datamodule.site_of(result.machine).name,
                "shots": result.shots,
                "metric": metric,
                "before": result.before,
                "after": result.after,
                "seconds": result.seconds,
                "model": str(model.relative_to(self.folder)),
            }
            run_folder.write_json(model.with_suffix(".json"), card)
            result.model.save(model)
            cards.append(card)
        if machine == "all":
            rows = [
                MachineResult(str(c["site"]), r.machine, r.before, r.after)
                for c, r in zip(cards, results, strict=True)
            ]
            self._report({"machines": cards}, rows)
            print(f"wrote {len(results)} models and their cards to {self.folder / 'machines'}")
        else:
            path = run_folder.write_json(self.folder / "personalize.json", cards[0])
            print(path.read_text(), end="")
            print(f"wrote {path} and {self.folder / str(cards[0]['model'])}")

    def _measure(self, verb: Any) -> None:
        began = time.perf_counter()
        verb(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=self.ckpt_path,
            weights_only=True,
            verbose=False,
        )
        self._report({**self._metrics(), "seconds": time.perf_counter() - began}, self.model.results)

    def _metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def _report(self, content: dict[str, Any], results: Sequence[MachineResult]) -> None:
        """Write `<verb>.json` and the chart, print the table, and name what was written."""
        metric = self.model.learner.objective.metric
        rows = [{"site": r.site, "machine": r.machine, "before": r.before, "after": r.after} for r in results]
        path = run_folder.write_json(self.folder / f"{self.subcommand}.json", {"machines": rows, **content})
        title = f"{self.folder.name}: {self.datamodule.episodes.shots} shot(s) per class"
        try:
            chart = f", {bar_chart(results, metric, title, path.with_suffix('.png'))}"
        except UserError as error:
            chart = f" ({error})"
        print(table(results, metric))
        print(f"wrote {path}{chart}")


class _Parser(LightningArgumentParser):
    """Errors in one sentence, without the usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
        print(f"fml: error: {' '.join(lines)}", file=sys.stderr)
        sys.exit(2)


class _SaveConfig(SaveConfigCallback):
    """Keeps the configuration of a training run in its folder."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, folder / "config.yaml", skip_none=False, overwrite=True)


def _frame(prediction: Prediction, classes: Sequence[str]) -> pl_frames.DataFrame:
    """One row per query window."""
    return pl_frames.concat(
        pl_frames.DataFrame(
            {
                "machine": [machine] * len(targets),
                "window": range(len(targets)),
                "label": [classes[t] for t in targets],
                "predicted": [classes[o] for o in outputs.argmax(-1)],
                **{f"p_{name}": outputs[:, i].numpy() for i, name in enumerate(classes)},
            }
        )
        for machine, targets, outputs in zip(
            prediction.machines, prediction.targets, prediction.outputs, strict=True
        )
    )


def quieten() -> None:
    """Silence what Lightning says of hardware, tips and its own dependencies in every run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (r".*LeafSpec.*", r".*does not have many workers.*", r".*No positive.*"):
        warnings.filterwarnings("ignore", message=message)
