"""The README's Python runs, in order, as a reader would paste it; only shorter, and without files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest

import fml_lightning.federation  # noqa: F401  # its sites take Lightning's own Trainer, not the one below

REPOSITORY = Path(__file__).parent.parent
SHORTER = {"batches=500": "batches=2, test_batches=2", "max_steps=20": "max_steps=1"}
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def test_lines_of_configs_fit_a_page() -> None:
    for path in sorted((REPOSITORY / "configs").glob("*.yaml")):
        assert max(map(len, path.read_text().splitlines())) <= 120, path.name


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = Path(os.environ.get("FML_DATA", REPOSITORY.parent / "shared" / "data")) / "omniglot"
    if not data.is_dir():
        pytest.skip(f"needs Omniglot at {data}: set FML_DATA to the folder above it")
    trainer = lightning.pytorch.Trainer
    monkeypatch.setattr(lightning.pytorch, "Trainer", lambda **options: trainer(**QUIET, **options))
    monkeypatch.chdir(tmp_path)
    _, central = (REPOSITORY / "README.md").read_text().split("## In Python, without a federation")
    blocks = re.findall(r"```python\n(.*?)```", central, re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join(blocks).replace('"DATA"', repr(str(data)))
    for long, short in SHORTER.items():
        assert long in code
        code = code.replace(long, short)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["adapted"]["1.weight"].shape[0] == 8
