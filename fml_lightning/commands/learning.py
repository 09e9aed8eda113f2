"""The verbs of learning: LightningCLI's fit, validate, test and predict, plus personalize."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from fml_lightning.commands import at_site
from fml_lightning.commands.allocator import keep_freed_memory
from fml_lightning.commands.parsing.foreign_code import is_from_lightning, raised_outside
from fml_lightning.commands.parsing.learning_parser import (
    FullHelp,
    LearningParser,
    import_public_names,
    note_arguments,
)
from fml_lightning.commands.parsing.parse_error import sentence
from fml_lightning.commands.parsing.working_folder import working_folder_last
from fml_lightning.commands.personal_models import ONLY_IF_BETTER, checkpoint_of, metric_unit, write_models
from fml_lightning.commands.progress import RoundProgress
from fml_lightning.commands.quiet import quieten
from fml_lightning.commands.report import chart_title, prediction_table, write_predictions, write_report
from fml_lightning.commands.run import run_folder
from fml_lightning.commands.run.round_checkpoint import Kept, RoundCheckpoint, read_checkpoint
from fml_lightning.commands.run.run_config import KeepConfig, describe, learned_changes
from fml_lightning.commands.run.run_folder import Runs
from fml_lightning.commands.trainer import Trainer
from fml_lightning.datamodules import Fleet
from fml_lightning.errors import NotYetError, UserError
from fml_lightning.federation import Federation
from fml_lightning.federation.machine_result import MachineResult
from fml_lightning.federation.one_process import refuse_several_processes
from fml_lightning.folder_lock import FolderLock
from fml_lightning.names import escaped

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
"""What runs without --config: a simulated fleet, no data and no server."""
ROUNDS = 60
"""Rounds of a run whose Trainer has no limit: neither max_epochs nor max_steps nor max_time."""

TRAINING = (
    "another fml fit is training in this run folder",
    "wait until it has ended, or start a run of its own, without --ckpt_path",
)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status: 0; 1 or 2 for what the user can mend; 130 if interrupted."""
    quieten()
    keep_freed_memory()
    working_folder_last()
    arguments = list(arguments)
    verb = arguments[0] if arguments else ""
    options = {argument.split("=")[0] for argument in arguments}
    is_at_site = "--site" in options and verb in ("personalize", "predict")
    needs_no_demo = (
        is_at_site
        or {"--config", "-c", "--help", "-h", "--help_all"} & options
        or any(option.endswith(".help") for option in options)
    )
    has_environment = {"FML_CONFIG", f"FML_{verb.upper()}__CONFIG"} & set(os.environ)
    if verb in FMLCommand.subcommands() and not needs_no_demo and not has_environment:
        print("fml: no --config given: using the simulated fleet of configs/demo.yaml", file=sys.stderr)
        arguments[1:1] = ["--config", str(DEMO)]
    sys.argv = ["fml", *arguments]
    try:
        if is_at_site:
            at_site.run(verb, arguments[1:])
            return 0
        with ExitStack() as held:
            FMLCommand(verb, held)
    except UserError as error:
        say(" ".join(str(error).split()))
        return 1
    except (MisconfigurationException, OSError) as error:
        say(sentence(str(error)) or type(error).__name__)
        return 1
    except KeyboardInterrupt:
        remedy = "; fml fit goes on with --ckpt_path last" if verb == "fit" else ""
        print(f"fml: interrupted{remedy}", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_from_lightning(error):
            raise
        say(f"{type(error).__name__}: {sentence(str(error))}")
        return 1
    return 0


def say(what: str) -> None:
    """Print an error, which may repeat what payloads say, as one line."""
    print(f"fml: error: {escaped(what)}", file=sys.stderr)


class FMLCommand(LightningCLI):
    """One command: parses it, builds fleet, federation and Trainer from YAML, runs it, and reports.

    Args:
        verb: whose options there are.
        held: closed when the command has ended; it holds the lock of the run's folder.
    """

    trainer: Trainer
    model: Federation
    datamodule: Fleet

    def __init__(self, verb: str, held: ExitStack) -> None:
        self.verb = verb
        self.held = held
        import_public_names()
        super().__init__(
            model_class=Federation,
            datamodule_class=Fleet,
            subclass_mode_data=True,
            trainer_class=Trainer,
            trainer_defaults={
                "default_root_dir": "runs",
                "accelerator": "cpu",
                "devices": 1,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 1,
            },
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_class=LearningParser,
            parser_kwargs={
                "description": "Federated meta-learning on machines.",
                "default_env": True,
                "env_prefix": "FML",
                "fit": {"description": "Train, then measure the training sites and the unseen ones."},
                "personalize": {
                    "description": "Adapt to a machine, and write its own model and card. At a site of a"
                    " federation: fml personalize --site site.yaml --machine NAME."
                },
                "predict": {
                    "description": "Adapt to every unseen machine and predict its later windows. At a site of a"
                    " federation: fml predict --site site.yaml."
                },
            },
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

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What is not Lightning's: which checkpoints are kept, and whether a run may be changed."""
        parser.add_argument("--help_all", action=FullHelp, help="Show every option and exit.")
        parser.add_class_arguments(Kept, "checkpoints")
        parser.add_argument(
            "--allow_changes",
            action="store_true",
            help="resume a run with another configuration than its own; the new one is kept as config-2.yaml",
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """A verb's parser; of one that is not asked for only its name and purpose, as options take time."""
        if subcommand != self.verb:
            return self.init_parser(**kwargs)
        made = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "personalize":
            made.add_argument("--only_if_better", action="store_true", help=ONLY_IF_BETTER)
        return made

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and find and read the checkpoint before anything slow begins."""
        try:
            super().parse_arguments(parser, args)
        except UnicodeDecodeError as error:
            raise UserError(f"--config: expected text in UTF-8 ({error})") from error
        except Exception as error:
            if (where := raised_outside(error)) is None:
                raise
            raise UserError(where) from error
        assert isinstance(parser, LearningParser)
        parser.refuse_unknown_variables(self.config.subcommand)
        config = self.config[self.config.subcommand]
        self.runs = Runs.of(Path(str(config.config[-1])), Path(config.trainer.default_root_dir or "runs"))
        self.resumed: Path | None
        self.ckpt_path: Path | None
        if self.config.subcommand == "fit":
            self.resumed, _ = self.runs.find_resumable(config.ckpt_path)
            if self.resumed is not None:  # the lock comes first: what is read then stays as it is
                self.held.enter_context(FolderLock(self.resumed, TRAINING).acquire())
            _, self.ckpt_path = self.runs.find_resumable(config.ckpt_path)
        else:
            self.ckpt_path = self.runs.find_checkpoint(config.ckpt_path or "last")
            self.resumed = self.runs.owner(self.ckpt_path)
        self.checkpoint = read_checkpoint(self.ckpt_path) if self.ckpt_path else None
        self.changed = False
        """Whether the run is resumed with another configuration than its own."""
        self.reseeded = False
        if self.config.subcommand == "fit" and self.checkpoint is not None:
            assert self.ckpt_path is not None
            self.changed = self._refuse_changes(config, self.ckpt_path, self.checkpoint)
        config.ckpt_path = None
        config.allow_changes = False

    def _refuse_changes(self, config: Namespace, ckpt: Path, checkpoint: dict[str, Any]) -> bool:
        """Whether what is learned would change, where that is allowed.

        Raises:
            UserError: it would, and that is not allowed.
        """
        changes = {}
        kept = run_folder.configs(ckpt.parent.parent) if ckpt.parent.name == run_folder.CHECKPOINTS else []
        if kept:
            changes = learned_changes(self._parser("fit"), kept[-1], config)
        seed, chosen = checkpoint.get("federation_seed"), not isinstance(config.seed_everything, bool)
        if chosen and seed is not None and seed != config.seed_everything:  # true: any seed
            changes["seed_everything"] = (seed, config.seed_everything)
        if changes and not config.allow_changes:
            own = f"--config {kept[-1]}" if kept else "the configuration it was trained with"
            raise UserError(
                f"--ckpt_path: {ckpt} was trained with {describe(changes)}; resume with {own}, take the change"
                " with --allow_changes, or start anew without --ckpt_path"
            )
        self.reseeded = "seed_everything" in changes
        return bool(changes)

    def before_instantiate_classes(self) -> None:
        """Let networks and objectives keep what YAML makes them with: a personal model's file tells it."""
        note_arguments(self.parser)

    def instantiate_classes(self) -> None:
        """Build everything from YAML; what a constructor refuses is the user's to mend."""
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(raised_outside(error) or sentence(str(error)) or type(error).__name__) from error
        except Exception as error:
            if (where := raised_outside(error)) is None:
                raise
            raise UserError(where) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer of the outer loop, with the callbacks of every run."""
        self._load_checkpoint()
        config = self._get(self.config_init, "trainer")
        fits = self.subcommand == "fit"
        if self.resumed is not None:
            self.folder = self.resumed
        else:
            self.folder = self.runs.claim()
            if fits:
                self.held.enter_context(FolderLock(self.folder, TRAINING).acquire())
        config["default_root_dir"] = str(self.folder)
        callbacks = config.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        if config.get("enable_progress_bar") is not False and not any(
            isinstance(callback, ProgressBar) for callback in callbacks
        ):
            callbacks = [RoundProgress(), *callbacks]
        if fits:
            if config.get("logger") is None:
                config["logger"] = CSVLogger(self.folder, name="logs")
            if config.get("enable_checkpointing") is not False:
                kept = self._get(self.config_init, "checkpoints")
                callbacks = [*callbacks, RoundCheckpoint(self.folder / run_folder.CHECKPOINTS, kept)]
            if self.resumed is None or self.checkpoint is None or self.changed:
                path = run_folder.next_config(self.folder) if self.changed else self.folder / "config.yaml"
                text = self._parser("fit").dump(self.config["fit"], skip_none=False)
                callbacks = [*callbacks, KeepConfig(path, text)]
            limits = (config.get("max_epochs"), config.get("max_time"))
            if limits == (None, None) and config.get("max_steps") == -1:
                config["max_epochs"] = max(ROUNDS, config.get("min_epochs") or 0, config.get("min_steps") or 0)
        else:
            config["logger"] = config.get("logger") or False
            config["enable_checkpointing"] = False
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
        config["callbacks"] = callbacks
        with self._folder_kept_only_if_used():
            trainer = super().instantiate_trainer(**kwargs)
            refuse_several_processes(trainer)
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
        self.model.takes_seed = not self.reseeded
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
        fleet = self.datamodule
        frame = prediction_table(
            predictions,
            fleet.classes,
            lambda site, machine: fleet.unseen[site].class_names(machine, fleet.classes),
        )
        write_predictions(frame, self.folder, fleet.target_unit)

    def personalize(self, machine: str, limit: float | None = None, normal: str = "", **_: Any) -> None:
        """Write each machine's model and card; print the card, or a table of several."""
        learner, fleet = self.model.learner, self.datamodule
        assert self.ckpt_path is not None
        fleet.setup("predict")  # it may know its classes from then on
        made_from = checkpoint_of(self.ckpt_path, int(self.model.rounds), self.model.run_id)
        write_models(
            lambda: self.trainer.personalize(self.model, self.datamodule, machine, limit=limit, normal=normal),
            learner,
            fleet,
            self.folder,
            made_from,
            self._title(),
            several=machine == "all",
            only_if_better=self._get(self.config, "only_if_better"),
        )

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
            written = [
                path
                for path in self.folder.rglob("*")
                if path.is_file() and path.name not in ("config.yaml", "lock")
            ]
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

    def _title(self) -> str:
        return chart_title(self.runs.name, self.datamodule.episodes, len(self.datamodule.classes))

    def _report(self, content: dict[str, Any], results: Sequence[MachineResult]) -> None:
        """Write `<verb>.json` and the chart, print the table, and name what was written."""
        learner, unit = self.model.learner, metric_unit(self.model.learner, self.datamodule)
        write_report(str(self.subcommand), content, results, self.folder, learner.objective, unit, self._title())
