"""The command line: LightningCLI's fit, validate, test and predict, plus personalize."""

from __future__ import annotations

import logging
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from fml_lightning.commands import run_folder
from fml_lightning.commands.allocator import keep_freed_memory
from fml_lightning.commands.arguments import Parser, sentence
from fml_lightning.commands.progress import RoundProgress
from fml_lightning.commands.report import bar_chart, prediction_table, table
from fml_lightning.commands.round_checkpoint import RoundCheckpoint
from fml_lightning.commands.trainer import Trainer
from fml_lightning.datamodules import Fleet
from fml_lightning.errors import NotYetError, UserError
from fml_lightning.federation import Federation
from fml_lightning.federation.machine_result import MachineResult

DEMO = Path(__file__).parent / "configs" / "demo.yaml"
"""What runs without --config: a simulated fleet, no data and no server."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status: 0; 1 or 2 for what the user can mend; 130 if interrupted."""
    quieten()
    keep_freed_memory()
    arguments = list(arguments)
    needs_no_demo = {"--config", "-c", "--help", "-h"} & {argument.split("=")[0] for argument in arguments}
    if arguments and arguments[0] in FMLCommand.subcommands() and not needs_no_demo:
        print("fml: no --config given: using the simulated fleet of configs/demo.yaml", file=sys.stderr)
        arguments[1:1] = ["--config", str(DEMO)]
    sys.argv = ["fml", *arguments]
    try:
        FMLCommand()
    except (UserError, MisconfigurationException, OSError) as error:
        print(f"fml: error: {sentence(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fml: interrupted; fml fit goes on with --ckpt_path last", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_from_lightning(error):
            raise
        print(f"fml: error: {type(error).__name__}: {sentence(str(error))}", file=sys.stderr)
        return 1
    return 0


class _Parser(Parser, LightningArgumentParser):
    """LightningCLI's parser, with our errors."""


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
            parser_kwargs={"description": "Federated meta-learning on machines."},
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

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and find and read the checkpoint before anything slow begins."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        self.root = Path(config.trainer.default_root_dir or "runs")
        self.name = run_folder.name_of(Path(str(config.config[-1])))
        self.resumed: Path | None
        self.ckpt_path: Path | None
        if self.config.subcommand == "fit":
            self.resumed, self.ckpt_path = run_folder.find_resumable(self.root, self.name, config.ckpt_path)
        else:
            self.ckpt_path = run_folder.find_checkpoint(self.root, self.name, config.ckpt_path or "last")
            self.resumed = run_folder.owner(self.ckpt_path, self.root)
        self.checkpoint = _read_checkpoint(self.ckpt_path) if self.ckpt_path else None
        seed = (self.checkpoint or {}).get("federation_seed", config.seed_everything)
        chosen = not isinstance(config.seed_everything, bool)  # true: any seed
        if self.config.subcommand == "fit" and chosen and seed != config.seed_everything:
            raise UserError(
                f"--ckpt_path: {self.ckpt_path} was trained with seed_everything {seed}, now it is"
                f" {config.seed_everything}; resume with the same seed, or start anew without --ckpt_path"
            )
        config.ckpt_path = None

    def instantiate_classes(self) -> None:
        """Build everything from YAML; what a constructor refuses is the user's to mend."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer of the outer loop, with the callbacks of every run."""
        self._load_checkpoint()
        config = self._get(self.config_init, "trainer")
        self.folder = self.resumed or run_folder.claim(self.root, self.name)
        config["default_root_dir"] = str(self.folder)
        callbacks = config.get("callbacks") or []
        if config.get("enable_progress_bar") is not False:
            callbacks = [RoundProgress(), *callbacks]
        if self.subcommand == "fit":
            if config.get("logger") is None:
                config["logger"] = CSVLogger(self.folder, name="logs")
            if config.get("enable_checkpointing") is not False:
                callbacks = [*callbacks, RoundCheckpoint(run_folder.checkpoint(self.folder))]
        else:
            config["logger"] = config.get("logger") or False
            config["enable_checkpointing"] = False
        config["callbacks"] = callbacks
        with self._folder_kept_only_if_used():
            trainer = super().instantiate_trainer(**kwargs)
        assert isinstance(trainer, Trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        with self._folder_kept_only_if_used():
            try:
                super()._run_subcommand(subcommand)
            except SystemExit:
                if self.trainer.interrupted:
                    raise KeyboardInterrupt from None
                raise

    def fit(self, **_: Any) -> None:
        """Train, then measure the training sites and the unseen ones."""
        began = time.perf_counter()
        print(f"run folder: {self.folder}" + (f", resumed from {self.ckpt_path}" if self.ckpt_path else ""))
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.ckpt_path, weights_only=True)
        metrics = {"rounds": self.trainer.global_step, **self._metrics()}
        self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        metrics |= self._metrics()
        if self.datamodule.unseen:
            try:
                self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
                metrics |= self._metrics()
            except NotYetError as error:
                print(f"fml: the unseen sites are not measured yet: {error}", file=sys.stderr)
        self._report({**metrics, "seconds": time.perf_counter() - began}, self.model.results)

    def validate(self, **_: Any) -> None:
        """Measure the training sites on their late windows."""
        self._measure(self.trainer.validate)

    def test(self, **_: Any) -> None:
        """Measure the unseen sites."""
        self._measure(self.trainer.test)

    def predict(self, **_: Any) -> None:
        """Personalize every unseen machine and predict its late windows, into predict.parquet."""
        predictions: Any = self.trainer.predict(self.model, datamodule=self.datamodule)
        frame = prediction_table(predictions, self.datamodule.classes)
        path = self.folder / "predict.parquet"
        frame.write_parquet(path)
        print(frame)
        print(f"wrote {path}")

    def personalize(self, machine: str, **_: Any) -> None:
        """Write each machine's model and card; print the card, or a table of several."""
        results = self.trainer.personalize(self.model, self.datamodule, machine)
        rows, cards = [], []
        for result in results:
            row = MachineResult(
                self.datamodule.site_of(result.machine).name, result.machine, result.before, result.after
            )
            file = self.folder / "machines" / f"{quote(result.machine, safe='')}.pt"  # named by what devices send
            card = {
                **asdict(row),
                "metric": self.model.learner.objective.metric,
                "shots": result.shots,
                "seconds": result.seconds,
                "model": str(file.relative_to(self.folder)),
            }
            run_folder.write_json(file.with_suffix(".json"), card)
            result.model.save(file)
            rows.append(row)
            cards.append(card)
        if machine == "all":
            self._report({"machines": cards}, rows)
            print(f"wrote {len(results)} models and their cards to {self.folder / 'machines'}")
        else:
            path = run_folder.write_json(self.folder / "personalize.json", cards[0])
            print(path.read_text(), end="")
            print(f"wrote {path} and {self.folder / str(cards[0]['model'])}")

    def _measure(self, verb: Callable[..., Any]) -> None:
        began = time.perf_counter()
        verb(self.model, datamodule=self.datamodule, verbose=False)
        self._report({**self._metrics(), "seconds": time.perf_counter() - began}, self.model.results)

    @contextmanager
    def _folder_kept_only_if_used(self) -> Iterator[None]:
        """Remove the folder that this command made, and no other, if it fails before anything was measured."""
        try:
            yield
        except Exception:
            written = [path for path in self.folder.rglob("*") if path.is_file() and path.name != "config.yaml"]
            if self.resumed is None and not written:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _load_checkpoint(self) -> None:
        """Put the checkpoint's weights into the model, if they belong to this configuration."""
        if self.checkpoint is not None:
            try:
                self.model.load(self.checkpoint)
            except RuntimeError as error:
                raise UserError(
                    f"--ckpt_path: {self.ckpt_path} does not fit the config's model; use the config it was trained"
                    f" with ({str(error).splitlines()[-1].strip()})"
                ) from error

    def _metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def _report(self, content: dict[str, Any], results: Sequence[MachineResult]) -> None:
        """Write `<verb>.json` and the chart, print the table, and name what was written."""
        if not results:
            raise UserError(f"{self.subcommand}: nothing was measured; the fleet needs sites, and limits above 0")
        metric = self.model.learner.objective.metric
        content = {"machines": [asdict(result) for result in results], **content}
        path = run_folder.write_json(self.folder / f"{self.subcommand}.json", content)
        shots = self.datamodule.episodes.shots
        kind = "labelled" if self.datamodule.episodes.normal is None else "normal"
        title = f"{self.name}: adapted on {shots} {kind} window{'s' if shots > 1 else ''}"
        title += " per class" if kind == "labelled" else ""
        try:
            chart = f", {bar_chart(results, metric, title, path.with_suffix('.png'))}"
        except UserError as error:
            chart = f" ({error})"
        print(table(results, metric))
        print(f"wrote {path}{chart}")


class _SaveConfig(SaveConfigCallback):
    """Keeps the configuration of a training run in its folder."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            path = Path(trainer.default_root_dir) / "config.yaml"
            self.parser.save(self.config, path, skip_none=False, overwrite=True)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; nothing in the file is executed."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"], checkpoint["global_step"]
    except Exception as error:  # whatever a file that is no checkpoint makes of the reader
        raise UserError(
            f"--ckpt_path: {path} is not a checkpoint ({type(error).__name__} on reading it)"
        ) from error
    return checkpoint


def _is_from_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised, which means that it refuses the configuration."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith(("lightning.", "torch.optim"))


def quieten() -> None:
    """Silence what Lightning says of hardware, tips and its own dependencies in every run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (r".*LeafSpec.*", r".*does not have many workers.*", r"The dirpath has changed.*"):
        warnings.filterwarnings("ignore", message=message)
