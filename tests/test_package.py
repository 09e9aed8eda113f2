"""The package as others see it: its wheel, its public names, and the direction of its imports."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fml_lightning
import fml_lightning.datamodules

REPOSITORY = Path(__file__).parent.parent

LAYERS = [
    {"errors", "names", "seeds", "lazy", "bearing", "description", "durable", "folder_lock", "stream_timing"},
    {"types"},
    {"preprocessing"},
    {"params", "nets"},
    {"adaptation", "objectives"},
    {"learners"},
    {"personal"},
    {"export"},
    {"executors"},
    {"federation"},
    {"connectors"},
    {"datamodules"},
    {"live"},
    {"commands"},
    {"__main__"},
]
"""Top-level modules and packages of fml_lightning; each imports only from earlier layers or its own."""

ALLOWED = {
    "preprocessing": {"bearing", "description", "errors", "types", "preprocessing"},
    "connectors": {"bearing", "durable", "errors", "lazy", "names", "seeds", "types", "connectors"},
    "datamodules": {
        "bearing",
        "errors",
        "lazy",
        "names",
        "seeds",
        "stream_timing",
        "types",
        "preprocessing",
        "connectors",
        "datamodules",
    },
}
"""What may be imported where a layer alone says too little: data know nothing of learners and federations."""

CONNECTORS = [
    {"quality", "messages", "readings", "labels", "pace"},
    {"codecs"},
    {"decoding"},
    {"spool"},
    {"mqtt"},
    {"survey"},
    {"broker", "plant"},
]
"""The stack of connectors, likewise."""


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """The modules below fml_lightning that a file imports, in parts: `("adaptation", "inner_loop")`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fml_lightning"):
            parts = tuple(node.module.split(".")[1:])
            yield from [parts] if parts else [(alias.name,) for alias in node.names]


def test_imports_run_one_way() -> None:
    depth = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    package = REPOSITORY / "fml_lightning"
    files = [p for p in package.rglob("*.py") if not {"connectors", "datamodules"} & set(p.parts)]
    files += [*(REPOSITORY / "datamodules").rglob("*.py"), *(REPOSITORY / "connectors").rglob("*.py")]
    assert len(files) > 20
    for path in files:
        if path == package / "__init__.py":
            continue
        root = package if package in path.parents else REPOSITORY
        own = path.relative_to(root).parts[0].removesuffix(".py")
        for name, *_ in imports(path):
            assert depth[name] <= depth[own], f"{path} imports {name}"
            if own in ALLOWED:
                assert name in ALLOWED[own], f"{path} imports {name}"
            if own not in ("datamodules", "connectors", "live", "commands"):
                assert name not in ("datamodules", "connectors"), f"{path}: the core imports no data set"


def test_the_stack_of_connectors_has_no_arrow_up() -> None:
    depth = {name: i for i, layer in enumerate(CONNECTORS) for name in layer}
    connectors = REPOSITORY / "connectors"
    for path in connectors.rglob("*.py"):
        own = path.relative_to(connectors).parts[0].removesuffix(".py")
        for first, *rest in imports(path):
            if first == "connectors" and rest and own != "__init__":
                assert depth[rest[0]] <= depth[own], f"{path} imports {rest[0]}"


@pytest.mark.parametrize(
    ("name", "unneeded"),
    [
        ("connectors.Spool", {"torch", "paho", "lightning"}),
        ("connectors.JSONObject", {"torch", "paho", "lightning", "polars"}),
        (
            "datamodules.SimulatedFleet",
            {"paho", "fml_lightning.datamodules.cwru", "fml_lightning.datamodules.spool"},
        ),
        ("InnerLoop", {"paho", "lightning", "polars", "numba"}),
        ("commands.rollback.run", {"torch", "lightning", "polars"}),
    ],
)
def test_a_name_loads_only_what_it_needs(name: str, unneeded: set[str]) -> None:
    module, _, attribute = f"fml_lightning.{name}".rpartition(".")
    program = f"import sys; from {module} import {attribute}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not unneeded & set(done.stdout.split())


PUBLIC = """ANIL Aggregator Classification Cohort Consistency Conv1d Conv4 Ditto Episode Examples Executor
FOMAML FaultLineRule FeatureReconstruction FedAvg FedBN FedPer FedProx FedRep Federation IMAML InnerLoop
LearnedLoss Learner Loss MAML MAMLPlusPlus MLP MachineResult MetaLearner MetaSGD NVFlareExecutor
NearestPrototype NextToken NextTokenGRU NormalDistance NotYetError Objective PFedMe Params PerFedAvg
PersonalModel Personalization Prediction Prototypical Reconstruction Regression RemainingUsefulLife Reptile
SerialExecutor SiteFailure SiteMemory SiteUpdate SupportObjective UserError WeightedMean Work adapt looped
personalize stacked trajectory"""


def test_public_names() -> None:
    assert sorted(fml_lightning.__all__) == sorted(PUBLIC.split())
    assert all(hasattr(fml_lightning, name) for name in fml_lightning.__all__)
    assert all(hasattr(fml_lightning.datamodules, name) for name in fml_lightning.datamodules.__all__)


@pytest.mark.parametrize("name", ["connectors", "datamodules"])
def test_bare_imports_are_refused_with_the_right_name(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"import it as 'fml_lightning.{name}'" in done.stderr


def test_the_wheel_holds_every_module_once(tmp_path: Path) -> None:
    copy = tmp_path / "copy"  # so that no build folder is left in the working tree
    shutil.copytree(
        REPOSITORY, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "runs", "*.egg-info")
    )
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(copy)],
        check=True,
        env=environment,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    expected = {
        "fml_lightning/py.typed",
        "fml_lightning/configs/demo.yaml",
        "fml_lightning/configs/cwru_unseen_load.yaml",
        "fml_lightning/live/page/uplot/LICENSE",
    }
    page = REPOSITORY / "fml_lightning" / "live" / "page"
    for suffix in ("html", "js", "css", "svg"):
        expected |= {p.relative_to(REPOSITORY).as_posix() for p in page.rglob(f"*.{suffix}")}
    for folder, target in (("fml_lightning", ""), ("connectors", "connectors/"), ("datamodules", "datamodules/")):
        for path in (REPOSITORY / folder).rglob("*.py"):
            relative = path.relative_to(REPOSITORY / folder)
            if folder != "fml_lightning" or relative.parts[0] not in ("connectors", "datamodules"):
                expected.add(f"fml_lightning/{target}{relative.as_posix()}")
    packaged = {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    assert expected <= packaged
    assert {n for n in packaged if n.endswith(".py")} == {n for n in expected if n.endswith(".py")}
    assert not [
        n for n in names if n.split("/")[0] in ("connectors", "datamodules", "configs", "tests", "benchmarks")
    ]


def test_the_numba_cache_is_somewhere_writable(tmp_path: Path) -> None:
    """A read-only home must not stop the import."""
    program = (
        "import numpy as np\n"
        "from fml_lightning.preprocessing import TimeDomain\n"
        "assert TimeDomain()(np.ones((1, 8), np.float32), 1.0).shape == (1, 16)\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": "/proc/nowhere"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
