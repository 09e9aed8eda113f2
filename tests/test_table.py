"""Tables: rows of ready features become windows, and what is wrong with a table is told with its place."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from jsonargparse import ArgumentParser

from fml_lightning import UserError
from fml_lightning.commands.learning import run
from fml_lightning.datamodules import Episodes, Fleet, SiteData, Table
from fml_lightning.datamodules.held_out import held_out
from fml_lightning.preprocessing import Preprocessing, Standardize

FEATURES = [f"f{i}" for i in range(12)]
STATES = ("broken", "ok", "worn")
ROLES = {"site": "plant", "machine": "machine", "target": "state", "time": "hour"}


def machines(rows: int = 36, features: int = 2) -> pl.DataFrame:
    """Three plants of two machines, each with offsets of its own; states take turns."""
    rng = np.random.default_rng(0)
    table = []
    for plant in range(1, 4):
        for machine in "ab":
            offset = rng.normal(0, 3, features)
            for hour in range(rows):
                x = offset + rng.normal(0, 0.5, features)
                x[(hour % 3) % features] += hour % 3 + 1
                table.append([f"plant{plant}", f"p{plant}{machine}", hour, STATES[hour % 3], *x.tolist()])
    return pl.DataFrame(table, ["plant", "machine", "hour", "state", *FEATURES[:features]], orient="row")


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Table]:
    """Writes a table, and opens it as a fleet."""

    def make(frame: pl.DataFrame | str, **options: Any) -> Table:
        path = tmp_path / "machines.csv"
        if isinstance(frame, str):
            path.write_text(frame, encoding="utf-8")
        else:
            frame.write_csv(path)
        return Table(**{"path": str(path), "unseen": ["plant3"], "standardize": None, **ROLES, **options})

    return make


def opened(fleet: Table) -> dict[str, SiteData]:
    fleet.setup("fit")
    return {**fleet.sites, **fleet.unseen}


def told(fleet: Table) -> dict[str, dict[str, list[Any]]]:
    """Everything that a fleet's machines hold, by site and machine."""
    return {
        name: {
            f"{machine.name} {side}": [windows.label.tolist(), windows.start.tolist(), windows.x.tolist()]
            for machine in site.machines
            for side, windows in (("early", machine.early), ("late", machine.late))
        }
        for name, site in opened(fleet).items()
    }


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_trains_tests_and_personalizes_from_yaml_alone(tmp_path: Path, suffix: str) -> None:
    """12 features, 3 sites of 4 machines with 300 rows and offsets of their own."""
    rng = np.random.default_rng(0)
    rows = []
    for plant in range(1, 4):
        for machine in range(1, 5):
            offset = rng.normal(0, 3, 12)
            for hour in range(300):
                state = int(rng.integers(3))
                x = offset + rng.normal(0, 1, 12)
                x[state] += 4
                rows.append([f"plant{plant}", f"p{plant}m{machine}", hour, STATES[state], *x.tolist()])
    frame = pl.DataFrame(rows, ["plant", "machine", "hour", "state", *FEATURES], orient="row").sample(
        fraction=1, shuffle=True, seed=0
    )
    path = tmp_path / f"machines.{suffix}"
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    config = {
        "seed_everything": 0,
        "model": {
            "learner": {
                "class_path": "fml_lightning.MAML",
                "init_args": {
                    "net": {
                        "class_path": "fml_lightning.MLP",
                        "init_args": {"in_features": 12, "out_features": 3, "hidden": [32], "norm_input": False},
                    }
                },
            },
            "local_steps": 5,
        },
        "data": {
            "class_path": "fml_lightning.datamodules.Table",
            "init_args": {
                "path": str(path),
                **ROLES,
                "unseen": ["plant3"],
                "episodes": {"repeats": 2, "tasks": 4},
            },
        },
        "trainer": {"max_steps": 6, "check_val_every_n_epoch": 3, "enable_progress_bar": False},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    common = ["--config", str(tmp_path / "own.yaml"), "--trainer.default_root_dir", str(tmp_path / "runs")]
    folder = tmp_path / "runs" / "own" / "1"
    assert run(["fit", *common]) == 0
    assert run(["test", *common, "--ckpt_path", "last"]) == 0
    test = json.loads((folder / "test.json").read_text())
    assert {m["machine"] for m in test["machines"]} == {f"p3m{m}" for m in range(1, 5)}
    assert test["test/accuracy_after"] > 0.7 > test["test/accuracy_before"]
    assert run(["personalize", *common, "--ckpt_path", "last", "--machine", "p3m2"]) == 0
    assert (folder / "machines/plant3/p3m2/v1/model.safetensors").is_file()


def test_rows_are_windows_split_by_time_each_class_by_itself(table: Callable[..., Table]) -> None:
    frame = machines()
    fleet = table(frame)
    sites = opened(fleet)
    assert (list(fleet.sites), list(fleet.unseen), fleet.classes) == (["plant1", "plant2"], ["plant3"], STATES)
    assert fleet.preprocessing.channels == ("f0", "f1")
    machine = sites["plant1"].machines[1]
    assert machine.name == "p1b"
    own = frame.filter(machine="p1b", state="worn").select("f0", "f1").to_numpy().astype(np.float32)
    np.testing.assert_array_equal(machine.early.x[machine.early.label == 2], own[:6])
    np.testing.assert_array_equal(machine.late.x[machine.late.label == 2], own[7:])  # one row is the gap


def test_shuffled_rows_change_nothing_where_a_column_tells_the_time(table: Callable[..., Table]) -> None:
    frame = machines()
    expected = told(table(frame))
    assert told(table(frame.sample(fraction=1, shuffle=True, seed=1))) == expected
    without = told(table(frame, time=None, features=FEATURES[:2]))
    assert without == expected  # in the order of rows


def test_the_first_rows_in_time_are_support(table: Callable[..., Table]) -> None:
    """Of whatever class: the order of time runs across classes."""
    episodes = Episodes(shots=4, support="first", of="as they come", permute_labels=False)
    site = opened(table(machines(), episodes=episodes))["plant3"]
    support = site.personal_episode("p3a", seed=0).support
    assert support.y.tolist() == [[0, 1, 2, 0]]


def test_one_site_is_read_alone_as_it_is_read_with_the_others(
    table: Callable[..., Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told(table(machines()))["plant2"]
    fleet = table(machines())
    read: list[str] = []
    original = Table._site
    monkeypatch.setattr(Table, "_site", lambda self, name, *rest: read.append(name) or original(self, name, *rest))
    site = fleet.site("plant2")
    assert read == ["plant2"]
    (machine, _) = site.machines
    assert machine.early.x.tolist() == expected["p2a early"][2]
    with pytest.raises(UserError, match="no site 'plant9'; there are plant1, plant2, plant3"):
        fleet.site("plant9")


@pytest.mark.parametrize("extra", [1, 2, 5])
def test_machines_of_too_few_rows_change_nothing_of_the_others(
    table: Callable[..., Table], extra: int, caplog: pytest.LogCaptureFixture
) -> None:
    frame = machines()
    expected = told(table(frame))
    few = frame.head(extra).with_columns(machine=pl.lit("new"))
    with caplog.at_level(logging.WARNING):
        assert told(table(pl.concat([frame, few]))) == expected
    assert "Table, plant1: left out, because 6 rows are needed before the split in time" in caplog.text
    assert "new broken" in caplog.text


@pytest.mark.parametrize("rows", [37, 38, 41])
def test_any_number_of_rows_is_cut(table: Callable[..., Table], rows: int) -> None:
    for site in opened(table(machines(rows))).values():
        for machine in site.machines:
            for label in range(3):
                count = len(range(label, rows, 3))
                assert (machine.early.label == label).sum() == count // 2
                assert (machine.late.label == label).sum() == count - count // 2 - 1


def test_columns_are_standardized_by_the_early_rows_of_the_training_sites(table: Callable[..., Table]) -> None:
    frame = machines()
    early = (pl.col("plant") != "plant3") & (pl.col("hour") < 18)
    own = frame.filter(early).select("f0", "f1").to_numpy()
    sites = opened(table(frame, standardize=Standardize()))
    raw = opened(table(frame))
    for name in ("plant1", "plant3"):
        expected = (raw[name].machines[0].late.x - own.mean(0)) / own.std(0)
        np.testing.assert_allclose(sites[name].machines[0].late.x, expected, rtol=1e-4, atol=1e-5)


def test_a_site_is_its_own_machine(table: Callable[..., Table]) -> None:
    fleet = table(machines().drop("machine"), machine=None)
    sites = opened(fleet)
    assert {name: site.machine_names for name, site in sites.items()} == {
        f"plant{i}": [f"plant{i}"] for i in (1, 2, 3)
    }


@pytest.mark.parametrize(
    ("unseen", "sites", "expected"),
    [
        (["plant3"], ["plant1", "plant2"], {"plant3": ["p3a", "p3b"]}),
        (["*b"], ["plant1", "plant2", "plant3"], {f"plant{i}-unseen": [f"p{i}b"] for i in (1, 2, 3)}),
        (["plant2/p2a"], ["plant1", "plant2", "plant3"], {"plant2-unseen": ["p2a"]}),
        ((), ["plant1", "plant2", "plant3"], {}),
    ],
)
def test_sites_and_machines_are_held_out(
    table: Callable[..., Table], unseen: Any, sites: list[str], expected: dict[str, list[str]]
) -> None:
    fleet = table(machines(), unseen=unseen)
    fleet.setup("fit")
    assert list(fleet.sites) == sites
    assert {name: site.machine_names for name, site in fleet.unseen.items()} == expected


def test_a_share_of_the_sites_is_drawn_by_seed() -> None:
    all_machines = [(f"s{i}", f"m{i}{j}") for i in range(8) for j in range(2)]
    drawn = [held_out("Table", all_machines, 0.25, seed) for seed in range(20)]
    assert all(len({site for site, _ in each}) == 2 and len(each) == 4 for each in drawn)
    assert held_out("Table", reversed(all_machines), 0.25, 3) == drawn[3]
    assert len({frozenset(each) for each in drawn}) > 1
    assert len({site for site, _ in held_out("Table", all_machines, 0.01, 0)}) == 1


def test_decimal_commas_dates_and_several_files_are_read_as_they_are_meant(tmp_path: Path) -> None:
    frame = machines()
    begin = datetime(2026, 1, 31, tzinfo=UTC)
    german = frame.with_columns(
        *(pl.format("{}", pl.col(f).round(6)).str.replace(".", ",", literal=True) for f in FEATURES[:2]),
        hour=pl.Series([(begin + timedelta(hours=h)).isoformat() for h in frame["hour"].to_list()]),
    )
    for plant in ("plant1", "plant2", "plant3"):
        text = german.filter(plant=plant).sample(fraction=1, shuffle=True, seed=0).write_csv(separator=";")
        (tmp_path / f"{plant}.csv").write_text("\ufeff" + text.replace("\n", "\n\n", 3), encoding="utf-8")
    fleet = Table(str(tmp_path / "*.csv"), unseen=["plant3"], standardize=None, **ROLES)  # type: ignore[arg-type]
    machine = opened(fleet)["plant2"].machines[0]
    own = frame.filter(machine="p2a", state="ok").select("f0", "f1").to_numpy()
    np.testing.assert_allclose(machine.early.x[machine.early.label == 1], own[:6], atol=1e-6)
    first = (begin + timedelta(hours=1)).timestamp() * 1e6
    assert machine.early.start[machine.early.label == 1].tolist() == [first + 3 * k * 3600e6 for k in range(6)]


def test_a_table_without_header_is_read_as_told(table: Callable[..., Table]) -> None:
    text = machines().write_csv(include_header=False)
    options = {"site": "column_1", "machine": "column_2", "time": "column_3", "target": "column_4"}
    fleet = table(text, header=False, **options)
    assert told(fleet) == told(table(machines()))
    assert fleet.preprocessing.channels == ("column_5", "column_6")


def test_parquet_is_read_as_csv_is(table: Callable[..., Table], tmp_path: Path) -> None:
    frame = machines()
    frame.write_parquet(tmp_path / "machines.parquet", row_group_size=17)
    assert told(table(frame, path=str(tmp_path / "machines.parquet"))) == told(table(frame))


def test_numbers_are_targets_one_for_each_row(table: Callable[..., Table]) -> None:
    frame = machines().with_columns(wear=pl.col("hour") ** 2 / 7)
    fleet = table(frame, target="wear", features=["f0"])
    machine = opened(fleet)["plant1"].machines[0]
    assert fleet.classes == ("wear",)
    assert machine.early.target is not None
    np.testing.assert_allclose(machine.early.target, np.arange(18) ** 2 / 7, rtol=1e-6)
    assert machine.late.target is not None
    np.testing.assert_allclose(machine.late.target, np.arange(19, 36) ** 2 / 7, rtol=1e-6)


def test_codes_are_classes_or_numbers_as_told(table: Callable[..., Table]) -> None:
    frame = machines().with_columns(code=pl.col("hour") % 3 * 5.0)
    for options, classes in (
        ({}, ("0", "5", "10")),
        ({"classes": [10, 0, 5]}, ("10", "0", "5")),
        ({"positive": [5, "10"]}, ("no", "yes")),
        ({"positive": [5.0], "classes": ["fine", "ill"]}, ("fine", "ill")),
        ({"kind": "numbers"}, ("code",)),
    ):
        fleet = table(frame, target="code", features=["f0"], **options)
        fleet.setup("fit")
        assert fleet.classes == classes
    labels = (
        opened(table(frame, target="code", features=["f0"], positive=[5, 10]))["plant1"].machines[0].early.label
    )
    assert np.bincount(labels).tolist() == [6, 12]


def test_categories_are_those_of_the_training_sites(
    table: Callable[..., Table], caplog: pytest.LogCaptureFixture
) -> None:
    makers = {"plant1": "Acme", "plant2": "Bolt", "plant3": "Cog"}
    frame = machines().with_columns(maker=pl.col("plant").replace(makers), speed=pl.col("hour") * 10.0)
    fleet = table(frame, categories=["maker"], inputs=["speed"])
    with caplog.at_level(logging.WARNING):
        sites = opened(fleet)
    assert fleet.preprocessing.channels == ("f0", "f1", "speed", "maker=Acme", "maker=Bolt")
    hot = {name: np.unique(site.machines[0].early.x[:, 3:], axis=0).tolist() for name, site in sites.items()}
    assert hot == {"plant1": [[1, 0]], "plant2": [[0, 1]], "plant3": [[0, 0]]}
    assert "Table, plant3: 72 rows have a maker that no training site has, such as Cog" in caplog.text
    speeds = sites["plant1"].machines[0].early
    assert speeds.x[speeds.label == 0, 2].tolist() == [0, 30, 60, 90, 120, 150]


def with_gaps() -> pl.DataFrame:
    """Every fifth f0 of plant1 and all of plant3's are missing."""
    gap = ((pl.col("plant") == "plant1") & (pl.col("hour") % 5 == 0)) | (pl.col("plant") == "plant3")
    return machines().with_columns(f0=pl.when(~gap).then("f0"))


def test_missing_values_are_treated_as_told(table: Callable[..., Table]) -> None:
    frame = with_gaps()
    with pytest.raises(
        UserError, match=r"machines.csv, line 2, column 'f0': expected a value, got none; fill it in"
    ):
        table(frame).setup("fit")
    mean = frame.filter(pl.col("plant") != "plant3")["f0"].mean()
    filled = opened(table(frame, missing="mean"))
    assert np.unique(filled["plant3"].machines[0].early.x[:, 0]) == np.float32(mean)  # type: ignore[arg-type]
    fleet = table(frame, missing="zero")
    zero = opened(fleet)
    assert fleet.preprocessing.channels == ("f0", "f1", "f0 missing")
    np.testing.assert_array_equal(np.unique(zero["plant3"].machines[0].early.x[:, [0, 2]], axis=0), [[0, 1]])
    assert zero["plant2"].machines[0].early.x[:, 2].sum() == 0
    fleet = table(frame, missing="drop", unseen=["plant2"], episodes=Episodes(queries=3))
    fleet.setup("fit")
    assert list(fleet.sites) == ["plant1"]
    counts = frame.filter(pl.col("machine") == "p1a").drop_nulls().group_by("state").len().sort("state")["len"]
    machine = fleet.sites["plant1"].machines[0]
    assert np.bincount(machine.early.label).tolist() == [count // 2 for count in counts]


def broken(line: int, column: str, value: str) -> str:
    """The table as CSV with one cell replaced."""
    lines = machines().write_csv().splitlines()
    cells = lines[line - 1].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[line - 1] = ",".join(cells)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        (broken(7, "f1", "x9"), {}, r"machines.csv, line 7, column 'f1': expected a number, got 'x9'; mend it"),
        (broken(7, "f1", "1;5"), {}, r"line 7, column 'f1': expected a number, got '1;5'"),
        (
            broken(9, "f1", "NaN"),
            {},
            r"line 9, column 'f1': expected a value, got none; fill it in, or set missing",
        ),
        (broken(9, "f1", "1e39"), {}, r"line 9, column 'f1': expected a finite number of 32 bits, got '1e39'"),
        (broken(9, "f1", "inf"), {}, r"line 9, column 'f1': expected a finite number of 32 bits, got 'inf'"),
        (
            broken(3, "plant", ""),
            {},
            r"line 3, column 'plant': expected a value, got none; fill it in, or set missing",
        ),
        (broken(4, "machine", "?"), {}, r"line 4, column 'machine': expected a value, got none"),
        (broken(5, "state", ""), {}, r"line 5, column 'state': expected a value, got none"),
        (broken(6, "hour", "noon"), {}, r"line 6, column 'hour': expected a time, as the others, got 'noon'"),
        (
            broken(6, "state", "odd"),
            {"classes": STATES},
            r"line 6, column 'state': expected one of the classes broken",
        ),
        (broken(8, "f1", "1,0,0"), {}, r"machines.csv, line 8: expected 6 cells, got 8; mend the line"),
        (broken(1, "f1", "f0"), {}, r"machines.csv, line 1: two columns are called 'f0'"),
        (
            broken(1, "f1", "f2"),
            {"features": ["f1"]},
            r"has no column 'f1', which features names; there are plant",
        ),
        (
            machines().write_csv(),
            {"target": "stat"},
            r"no column 'stat', which target names; did you mean 'state'",
        ),
        (
            machines().write_csv(),
            {"features": ["f0", "hour"]},
            r"the column 'hour' is named by time and by features",
        ),
        (
            machines().write_csv(),
            {"target": "f0", "features": ["f0"]},
            r"the column 'f0' is named by target and by",
        ),
        (machines().write_csv(), {"unseen": ["plan3"]}, r"unseen names 'plan3', .* did you mean 'plant3'\?"),
        (
            machines().write_csv(),
            {"unseen": "plant3"},
            "expected unseen as a list of patterns of names, or a share",
        ),
        (
            machines().write_csv(),
            {"unseen": 1.5},
            r"expected as share of what is unseen a number in \[0, 1\), got 1.5",
        ),
        (machines().write_csv(), {"unseen": ["*"]}, "expected at least two classes .* got none alone"),
        (machines().write_csv(), {"positive": ["wor"]}, "positive names 'wor', .* did you mean 'worn'"),
        (
            machines().write_csv(),
            {"path": "nowhere.csv"},
            "expected a table, .* at 'nowhere.csv', found no such file",
        ),
        (
            machines().with_columns(state=pl.lit("ok")).write_csv(),
            {},
            "expected at least two classes in the column 'state' of the training sites, got ok alone",
        ),
        (
            machines(9).write_csv(),
            {},
            "no machine of a training site has 6 rows of a class before the split in time",
        ),
        (
            machines().drop("f0", "f1").write_csv(),
            {},
            "expected a column of numbers beside plant, machine, state, hour",
        ),
        (
            "1,2,3\n4,5,6\n",
            {},
            "line 1: expected the names of columns, got numbers; name the columns, or set header",
        ),
        ("plant,machine,hour,state,f0\n", {}, "has no rows to use"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    table: Callable[..., Table], text: str, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        table(text, **options).setup("fit")
    assert len(str(caught.value).splitlines()) == 1


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "machines.csv"
    path.write_bytes(machines().write_csv().replace("worn", "w\xf6rn").encode("latin-1"))
    with pytest.raises(UserError, match=r"machines.csv, below line \d+: the text is not UTF-8; save it as UTF-8"):
        Table(str(path), **ROLES).setup("fit")  # type: ignore[arg-type]


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    machines().write_csv(tmp_path / "a.csv")
    machines().drop("f1").write_csv(tmp_path / "b.csv")
    with pytest.raises(UserError, match=r"b.csv has no column 'f1', which another file has"):
        Table(str(tmp_path / "*.csv"), **ROLES).setup("fit")  # type: ignore[arg-type]


def test_constant_columns_are_told_once(table: Callable[..., Table], caplog: pytest.LogCaptureFixture) -> None:
    fleet = table(machines().with_columns(idle=pl.lit(3.5)))
    with caplog.at_level(logging.WARNING):
        fleet.setup("fit")
        fleet.setup("test")
    (record,) = caplog.records
    assert "constant at all training sites, so that nothing can be learnt from it: idle" in record.getMessage()


def test_rows_on_both_sides_are_told(table: Callable[..., Table], caplog: pytest.LogCaptureFixture) -> None:
    """A row copied to a later hour, and one copied to the unseen site."""
    frame = machines()
    copies = frame.filter(machine="p1a", hour=3).with_columns(hour=pl.lit(27, pl.Int64))
    frame = pl.concat([frame.filter(~((pl.col("machine") == "p1a") & (pl.col("hour") == 27))), copies])
    stolen = frame.filter(machine="p2a", hour=4).with_columns(plant=pl.lit("plant3"), machine=pl.lit("p3a"))
    with caplog.at_level(logging.WARNING):
        table(pl.concat([frame, stolen])).setup("fit")
    leaks = [record.getMessage() for record in caplog.records]
    assert len(leaks) == 2
    assert "Table, plant1: 1 rows of p1a are equal on both sides of the split in time" in leaks[0]
    assert "line 5 and" in leaks[0]
    assert "1 rows of the unseen site plant3 are also at the training site plant2" in leaks[1]


def test_of_a_table_larger_than_memory_a_share_is_read_spread_evenly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pl.concat([machines(300).with_columns(hour=pl.col("hour") + 300 * k) for k in range(10)])
    frame = frame.sort("hour", "machine")  # machines take turns: every sixth row is of one machine
    frame.write_parquet(tmp_path / "machines.parquet")
    rows = len(frame)
    memory = rows * (8 * 6 + 110) / 2**30 / 6  # room for a sixth
    fleet = Table(str(tmp_path / "machines.parquet"), unseen=["plant3"], memory=memory, **ROLES)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        sites = opened(fleet)
    assert "Table: of 18000 rows 17 % are read, spread evenly" in caplog.text
    for site in sites.values():
        for machine in site.machines:
            counts = np.bincount(machine.early.label) + np.bincount(machine.late.label)
            assert (abs(counts / (3000 / 3 / 6) - 1) < 0.1).all()


def test_conditions_are_split_by_themselves(table: Callable[..., Table]) -> None:
    frame = machines(60).with_columns(
        load=pl.when(pl.col("hour") < 20).then(pl.lit("idle")).otherwise(pl.lit("full"))
    )
    machine = opened(table(frame, condition="load"))["plant1"].machines[0]
    assert set(machine.early.condition) == set(machine.late.condition) == {"idle", "full"}
    early = [(machine.early.condition[machine.early.label == 0] == name).sum() for name in ("idle", "full")]
    assert early == [7 // 2, 13 // 2]


def test_machines_of_one_name_at_several_unseen_sites_are_each_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machines().with_columns(pl.col("machine").str.slice(-1)).write_csv(tmp_path / "machines.csv")
    config = tmp_path / "names.yaml"
    learner = {"class_path": "MAML", "init_args": {"net": {"class_path": "torch.nn.Linear"}}}
    learner["init_args"]["net"]["init_args"] = {"in_features": 2, "out_features": 3}  # type: ignore[index]
    data = {
        "path": str(tmp_path / "machines.csv"),
        "unseen": ["plant2", "plant3"],
        "episodes": {"repeats": 2},
        **ROLES,
    }
    content = {
        "seed_everything": 0,
        "model": {"learner": learner, "local_steps": 1},
        "data": {"class_path": "Table", "init_args": data},
        "trainer": {"max_steps": 1, "default_root_dir": str(tmp_path / "runs"), "enable_progress_bar": False},
    }
    config.write_text(yaml.safe_dump(content))
    folder = tmp_path / "runs" / "names" / "1"
    assert run(["fit", "--config", str(config)]) == 0
    assert run(["personalize", "--config", str(config), "--machine", "all"]) == 0
    cards = json.loads((folder / "personalize.json").read_text())["machines"]
    places = [(card["site"], card["machine"]) for card in cards]
    assert places == [("plant2", "a"), ("plant2", "b"), ("plant3", "a"), ("plant3", "b")]
    assert len({card["model"] for card in cards}) == 4
    assert run(["personalize", "--config", str(config), "--machine", "plant3/a"]) == 0
    alone = json.loads((folder / "personalize.json").read_text())
    assert (alone["site"], alone["after"]) == ("plant3", cards[2]["after"])
    assert (cards[2]["model"], alone["model"]) == tuple(
        f"machines/plant3/a/v{v}/model.safetensors" for v in (1, 2)
    )
    assert run(["predict", "--config", str(config)]) == 0
    predicted = pl.read_parquet(folder / "predict.parquet")
    assert predicted.select("site", "machine").unique(maintain_order=True).rows() == places
    capsys.readouterr()
    assert run(["personalize", "--config", str(config), "--machine", "a"]) == 1
    assert "a is the name of several machines; ask for one of plant2/a, plant3/a" in capsys.readouterr().err


def test_columns_are_standardized_under_each_condition_of_the_training_sites(tmp_path: Path) -> None:
    """By YAML: two speeds, whose means and deviations are computed here from the early rows of plants 1 and 2."""
    frame = machines(48).with_columns(speed=pl.when(pl.col("hour") // 3 % 2 == 0).then(10.0).otherwise(50.0))
    frame = frame.with_columns(f0=pl.col("f0") + 7 * pl.col("speed"))
    frame.write_csv(tmp_path / "machines.csv")
    settings = {"class_path": "Table", "init_args": {"path": str(tmp_path / "machines.csv"), **ROLES}}
    settings["init_args"] |= {  # type: ignore[operator]
        "inputs": ["speed"],
        "unseen": ["plant3"],
        "standardize": {"condition": "speed", "width": 5},
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Fleet, "data")
    fleet = parser.instantiate_classes(parser.parse_object({"data": settings})).data
    fleet.setup("fit")
    standardize = fleet.preprocessing.standardize
    early = frame.filter(pl.col("plant") != "plant3", pl.col("hour") < 24)
    rows = [early.filter(speed=speed).select("f0", "f1").to_numpy() for speed in (10.0, 50.0)]
    assert standardize.statistics.borders == (30.0,)
    np.testing.assert_allclose(standardize.statistics.mean, [own.mean(0) for own in rows], rtol=1e-5)
    np.testing.assert_allclose(standardize.statistics.deviation, [own.std(0) for own in rows], rtol=1e-4)
    machine = fleet.unseen["plant3"].machines[0]
    own = frame.filter(machine="p3a", state="ok").head(8)  # classes in order: broken, ok, worn
    which = (own["speed"].to_numpy() > 30).astype(int)
    expected = (own.select("f0", "f1").to_numpy() - np.stack([r.mean(0) for r in rows])[which]) / np.stack(
        [r.std(0) for r in rows]
    )[which]
    np.testing.assert_allclose(machine.early.x[machine.early.label == 1], expected, rtol=1e-3, atol=1e-3)
    described = Preprocessing.from_description(json.loads(json.dumps(fleet.preprocessing.describe())))
    values = own.select("f0", "f1", "speed").to_numpy().astype(np.float32)[:, :, None]
    np.testing.assert_allclose(described(values, 1.0), expected, rtol=1e-3, atol=1e-3)


def test_a_condition_that_is_no_column_is_told(table: Callable[..., Table]) -> None:
    with pytest.raises(UserError, match=r"condition to be one of the columns \(f0, f1\), got 'load'"):
        table(machines(), standardize=Standardize(condition="load")).setup("fit")


def test_training_machines_need_rows_for_the_shots_of_training(table: Callable[..., Table]) -> None:
    """18 early rows, 6 of each class: 6 shots to be judged, 2 and 3 queries while training."""
    frame = machines()
    fleet = table(frame, episodes=Episodes(shots=6, training_shots=2, queries=3))
    assert {name: site.machine_names for name, site in opened(fleet).items()} == {
        f"plant{i}": [f"p{i}a", f"p{i}b"] for i in (1, 2, 3)
    }
    for episodes in (Episodes(shots=7, training_shots=1, queries=1), Episodes(shots=1, training_shots=4)):
        with pytest.raises(UserError, match=r"no machine of a training site has (7|9) rows"):
            table(frame, episodes=episodes).setup("fit")
    fleet.setup("test")
    for site in fleet.sites.values():
        assert len(list(site.val_dataloader())) > 0
        assert next(iter(site.train_dataloader())).support.x.shape[1] == 6


def test_a_table_that_is_mended_after_it_was_refused_is_read_anew(
    table: Callable[..., Table], tmp_path: Path
) -> None:
    frame = machines()
    broken = frame.with_columns(f1=pl.when(pl.col("hour") != 30).then("f1"))
    fleet = table(broken)
    for _ in range(2):
        with pytest.raises(UserError, match="column 'f1': expected a value, got none"):
            fleet.setup("fit")
        assert not fleet.sites
    frame.write_csv(tmp_path / "machines.csv")
    assert told(fleet) == told(table(frame))


@pytest.mark.parametrize("unseen", ["plant3", 1.0, -0.1, True, [3]])
def test_what_is_no_pattern_and_no_share_is_refused_at_once(table: Callable[..., Table], unseen: Any) -> None:
    with pytest.raises(UserError, match=r"unseen as a list of patterns of names, or a share|a number in \[0, 1\)"):
        table(machines(), unseen=unseen)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace("\n", "\r"), "line 1: expected lines that end on a line feed, got carriage"),
        (lambda text: text + 'plant1,"p1a,40,ok,1,2\n', "line 218: expected quotes around whole cells"),
        (lambda text: text + "plant1,p1a,40,ok,1,2,3\n", "line 218: expected 6 cells, got 7; mend the line"),
        (
            lambda text: text + "plant1,p1a,noon,ok,1,2\n",
            "line 218, column 'hour': expected a time.*'noon'; mend it$",
        ),
        (lambda text: text + "plant1,p1a,,ok,1,2\n", "line 218, column 'hour': .* got none; fill it in, or set"),
    ],
)
def test_lines_that_are_no_rows_are_told_with_their_number(
    table: Callable[..., Table], change: Callable[[str], str], complaint: str
) -> None:
    with pytest.raises(UserError, match=rf"machines.csv, {complaint}"):
        table(change(machines().write_csv())).setup("fit")


def test_a_target_that_is_not_finite_is_told_with_its_place(table: Callable[..., Table]) -> None:
    text = machines().write_csv() + "plant1,p1a,40,ok,1,inf\n"
    with pytest.raises(UserError, match="line 218, column 'f1': expected a finite number of 32 bits, got 'inf'"):
        table(text, target="f1", features=["f0"]).setup("fit")


def test_spaces_around_names_of_columns_do_not_matter(table: Callable[..., Table]) -> None:
    assert told(table(machines().write_csv().replace(",", " , "))) == told(table(machines()))


def test_rows_that_are_dropped_are_counted(table: Callable[..., Table], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        table(machines().write_csv() + "plant1,p1a,40,,1,2\n", missing="drop").setup("fit")
    assert "Table: of 217 rows 1 lack a value, and are left out" in caplog.text
