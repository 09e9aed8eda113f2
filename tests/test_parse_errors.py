"""What `fml fit` says of arguments and configs that it refuses: one sentence, with the key and what came."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import CONFIG

from fml_lightning.commands.learning import FMLCommand

MODULES = {
    "broken.py": "def f(:\n",
    "raises.py": "settings = {}['width']\n",
    "imports.py": "import nosuchpackage\n",
    "mynet.py": "import torch\n\nclass MyNet(torch.nn.Module):\n    def __init__(self, width: int) -> None:\n"
    "        super().__init__()\n\nclass NoNet: ...\n",
}
FILES = {
    "syntax.yaml": "model:\n  learner: {a: [1, 2\ntrainer: 3\n",
    "tabs.yaml": "model:\n\tlearner: 3\n",
    "empty.yaml": "",
    "moved.yaml": "data:\n  class_path: SpoolFleet\n  init_args: {spools: {a: b}, classes: [x], quorum: 2}\n",
    "list.yaml": "- 1\n- 2\n",
    "scalar.yaml": "hello\n",
}
LOSS = "{class_path: Loss, init_args: {loss: %s}}"
NET = "model.learner.net"
CASES: list[tuple[str, str]] = [
    ("--model.learner mynet.Nope", r"model.learner: no class and no file mynet.Nope"),
    ("--model.learner nomod.Nope", r"model.learner: no module 'nomod' to import from"),
    ("--model.learner Nope", r"model.learner: no class and no file Nope; give"),
    ("--model.learner fml_lightning.MAMLL", r"no class and no file fml_lightning.MAMLL; did you mean MAML"),
    ("--model.learner {class_path:\xa03}".replace("\xa0", " "), r"model.learner: expected a class's import path"),
    ("--model.learner.net mynet.MyNet", rf"{NET}: width is missing: set --{NET}.width for mynet.MyNet"),
    ("--model.learner.net mynet.NoNet", rf"{NET}: expected a Module, got mynet.NoNet"),
    ("--model.learner.net broken.Net", r"broken.py, line 1: SyntaxError: invalid syntax"),
    ("--model.learner.net raises.Net", r"raises.py, line 1, in <module>: KeyError: 'width'"),
    ("--model.learner.net imports.Net", r"imports.py, line 1, in <module>: ModuleNotFoundError: No module named"),
    ("--model.learner.net.hidden [16,a]", rf"{NET}.hidden: expected int, got a"),
    ("--model.learner.net.hidden 3", rf"{NET}.hidden: expected a list, got 3"),
    ("--model.learner.inner_loop.lr x", r"model.learner.inner_loop.lr: expected float, got x"),
    ("--model.learner.inner_loop.lrr 1", r"inner_loop: option 'lrr' is not accepted by fml.*mean lr\?"),
    ("--model.learner.inner_loop 3", r"inner_loop: expected settings by name or a class.*, got 3"),
    ("--model.learner.foo.bar 3", r"model.learner: no option foo.bar of fml_lightning.MAML, given 3"),
    ("--model.cohort.fractoin 0.5", r"model.cohort: option 'fractoin'.*did you mean fraction\?"),
    ("--model.cohort 3", r"model.cohort: expected settings by name or a class.*, got 3"),
    ("--model.local_steps x", r"model.local_steps: expected int, got x"),
    ("--model.quorum", r"argument --model.quorum: expected one argument"),
    (
        "--model.server_optimizer torch.optim.Adamm",
        r"server_optimizer: no class and no file torch.optim.Adamm; did",
    ),
    ("--model.server_optimizer 3", r"model.server_optimizer: expected settings by name or a class.*, got 3"),
    ("--model.server_optimizer torch.optim.Adam --model.server_optimizer.lrr 3", r"'lrr' .*torch.optim.Adam"),
    ("--model.learner.objective Loss", r"objective: loss is missing: set --model.learner.objective.loss"),
    (f"--model.learner.objective {LOSS % 3}", r"objective.loss: expected .*, got 3"),
    (
        f"--model.learner.objective {LOSS % 'torch.nn.functional.hubr_loss'}",
        r"objective.loss: no class and no file torch.nn.functional.hubr_loss; did you mean huber_loss",
    ),
    (
        "--data.epsodes.shots 3",
        r"data: no option epsodes.shots of .*SimulatedFleet, given 3; did you mean episodes",
    ),
    ("--data.episodes.query_condition maybe", r"data.episodes.query_condition: expected any or other, got maybe"),
    ("--data.episodes.ways x", r"data.episodes.ways: expected int, got x"),
    ("--data.windowing.length [3]", r"data.windowing.length: expected int, got \[3\]"),
    ("--data.features NoFeat", r"data.features: no class and no file NoFeat"),
    ("--model.learner FedBN --model.learner.batch_norm batch", r"'batch_norm' is not accepted by \S*FedBN$"),
    ("--data.features TimeDomain --data.features.bands 3", r"data.features: option 'bands' is not accepted by"),
    ("--data fml_lightning.datamodules.Nope", r"data: no class and no file fml_lightning.datamodules.Nope"),
    ("--data CWRU --data.unseen x", r"data.unseen: expected settings by name, got x"),
    ("--data SpoolFleet --data.spools 3", r"data.spools: expected settings by name, got 3"),
    (
        "--data SpoolFleet --data.max_wait 9",
        r"data: no max_wait of .*SpoolFleet any more; set model.max_wait in its place",
    ),
    ("--data SpoolFleet --data.quorum 2", r"data: no quorum of .*SpoolFleet any more; set model.quorum in its"),
    ("--config moved.yaml", r"data: no quorum of .*SpoolFleet any more; set model.quorum in its place"),
    ("--trainer.max_epochs x", r"trainer.max_epochs: expected int, got x"),
    ("--trainer.precision 8", r"trainer.precision: expected 64 or 32 or 16 or .*, got 8"),
    ("--trainer.logger NoLogger", r"trainer.logger: no class and no file NoLogger"),
    ("--trainer.logger TensorBoardLogger", r"trainer.logger: save_dir is missing: set --trainer.logger.save_dir"),
    ("--trainer.callbacks EarlyStoping", r"trainer.callbacks: no class and no file EarlyStoping"),
    ("--trainer.callbacks [{class_path:\xa0EarlyStopping}]", r"trainer.callbacks: monitor is missing"),
    ("--checkpoints.every x", r"checkpoints.every: expected int, got x"),
    ("--seed_everything x", r"seed_everything: expected bool or int, got x"),
    ("--trainer.max_stepz 3", r"no option --trainer\.max_stepz.*did you mean trainer.max_steps"),
    (
        "--model.learner.objective Classification --model.learner.objective.metrics"
        " [torchmetrics.classification.MulticlassAUROC]",
        r"num_classes is missing: give torchmetrics.*MulticlassAUROC init_args: \{num_classes: ...\}",
    ),
    ("--modle.x 3", r"no option --modle.x; did you mean model"),
    ("extra", r"unknown argument 'extra'; options begin with --"),
    ("--config syntax.yaml", r"--config: expected YAML, .*line 3"),
    ("--config tabs.yaml", r"--config: expected YAML, .*line 2.* spaces, not tabs"),
    ("--config empty.yaml", r"--config: expected settings by name.*, got an empty file"),
    ("--config list.yaml", r"--config: expected settings by name.*, got '- 1 - 2'"),
    ("--config scalar.yaml", r"--config: expected settings by name.*, got 'hello'"),
    ("--config nofile.yaml", r"config: File does not exist: .*nofile.yaml"),
    ("--config .", r"config: Path is not a file"),
]


class _Parsed(Exception):  # noqa: N818
    """Carries the parser out of the command that made it."""


@pytest.fixture(scope="module")
def parser() -> Any:
    """The parser of `fml`, made once."""
    with pytest.MonkeyPatch.context() as patch:

        def stop(self: FMLCommand, parser: Any, args: Any) -> None:
            raise _Parsed(parser)

        patch.setattr(FMLCommand, "parse_arguments", stop)
        with pytest.raises(_Parsed) as stopped:
            FMLCommand("fit", ExitStack())
    return stopped.value.args[0]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[case for case, _ in CASES])
def test_a_refusal_is_one_sentence_with_key_and_reason(
    arguments: str,
    message: str,
    parser: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {**MODULES, **FILES, "small.yaml": yaml.safe_dump(CONFIG)}.items():
        (tmp_path / name).write_text(text)
    words = re.findall(r"\{.*\}|\[.*\]|\S+", arguments)
    try:
        parser.parse_args(["fit", "--config", "small.yaml", *(word.replace("\xa0", " ") for word in words)])
    except SystemExit:
        said = capsys.readouterr().err
    except SyntaxError as error:  # `FMLCommand.parse_arguments` makes a sentence of what the module raised
        from fml_lightning.commands.parsing.foreign_code import raised_outside

        said = f"fml: error: {raised_outside(error)}\n"
    assert re.search(message, said), said
    assert said.startswith("fml: error: ")
    assert said.count("\n") == 1
    assert not re.search(r":\s*$", said)
