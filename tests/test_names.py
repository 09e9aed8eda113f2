"""Names from outside: safe for a file, a terminal, a chart, a page and a logger, and still told apart."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import polars as pl
import pytest

from fml_lightning.commands.report import MANY, WORST, bar_chart, chart, shown_frame, table
from fml_lightning.errors import UserError
from fml_lightning.federation import MachineResult
from fml_lightning.names import columns, escaped, file_name, find_machine, key, page, shown

HOSTILE = [
    "",
    ".",
    "..",
    "...",
    "a",
    "A",
    "a.",
    ".a",
    "-rf",
    "~",
    "CON",
    "con.txt",
    "nul",
    "com1.x",
    "a/b",
    "a%2Fb",
    "a\\b",
    "a b",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "\x9b2J",
    "line\nbreak\r",
    "\u202egnp.exe",
    "\u2066x\u2069",
    "\u200b",
    "\u2028",
    "\ud800",
    "$x^",
    "$\\frac{$",
    "泵" * 28,
    "泵" * 29,
    "é" * 100,
    "x" * 200,
    "x" * 201,
    "x" * 60_000,
    "x" * 60_001,
    "<script>alert(1)</script>",
    '"quoted"',
    "&amp;",
    file_name("x" * 201),
]


def test_every_name_has_a_file_of_its_own(tmp_path: Path) -> None:
    made = [file_name(name) for name in HOSTILE]
    assert len(set(made)) == len(HOSTILE)
    for name in made:
        assert name.isascii()
        assert name not in ("", ".", "..")
        assert not set(name) & set('/\\:*?"<>|\0')
        assert not name.startswith((".", "-"))
        assert not name.endswith((".", " "))
        assert name.split(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1")
        for suffix in (".pt", ".json", ".json.part", ".partial"):
            assert len(f"{name}{suffix}".encode()) <= 255
            (tmp_path / f"{name}{suffix}").touch()
    assert file_name("plant3-machine1") == "plant3-machine1"
    assert file_name("fan load 0") == "fan%20load%200"


def test_what_is_shown_cannot_move_a_cursor_or_turn_text_around() -> None:
    for name in HOSTILE:
        text = shown(name)
        assert len(text) <= 48
        assert not {unicodedata.category(c) for c in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        assert text.encode()  # a terminal can print it
    assert shown("plant3-machine1") == "plant3-machine1"
    assert shown("Pumpe Süd 泵") == "Pumpe Süd 泵"
    assert escaped("\x1b]0;owned\x07") == r"\x1b]0;owned\x07"
    assert shown("x" * 60_000) != shown("x" * 60_001)
    assert columns("泵3é") == 4
    assert columns("e\u0301") == 1


def test_pages_and_loggers_take_every_name() -> None:
    for name in HOSTILE:
        assert not set(page(name)) & set("<>\"'")
        assert set(key(name)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert len({key(name) for name in HOSTILE}) == len(HOSTILE)


@pytest.fixture
def results() -> list[MachineResult]:
    """A machine of every hostile name, the first ones the worst."""
    return [MachineResult(name, name, 0.1, i / 100) for i, name in enumerate(HOSTILE)]


def test_the_table_has_a_line_for_every_name(results: list[MachineResult]) -> None:
    lines = table(results, "accuracy").split("\n")
    assert len(lines) == len(results) + 3  # the head, the mean and the worst
    assert len({columns(line.partition(" -> ")[0]) for line in lines[1:]}) == 1  # columns stand below each other
    assert all(not unicodedata.category(c).startswith("C") for line in lines for c in line)


def test_the_chart_draws_every_name(results: list[MachineResult], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of glyphs that the font lacks
        for some in (results[:20], results[20:]):
            path = bar_chart(some, "accuracy", "a $title$ \x1b 泵", tmp_path / "chart.png")
            assert path.read_bytes().startswith(b"\x89PNG")
            axes = chart(some, "accuracy", "title").axes
            assert len(axes) == 1
            assert len(axes[0].patches) == 2 * len(some)
            labels = axes[0].get_xticklabels()
            assert all(len(label.get_text()) <= 24 for label in labels)
            assert not any(label.get_parse_math() for label in labels)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_chart_of_many_shows_the_worst_and_how_all_are_distributed(higher_is_better: bool) -> None:
    pytest.importorskip("matplotlib")
    machines = [MachineResult("site", f"m{i}", 0.2, i / 1000) for i in range(1000)]
    bars, histogram = chart(machines, "accuracy", "many", higher_is_better).axes
    assert len(bars.patches) == 2 * WORST
    shown_ = [label.get_text() for label in bars.get_xticklabels()]
    assert shown_ == [f"m{i}" for i in (range(WORST) if higher_is_better else range(999, 999 - WORST, -1))]
    heights = [patch.get_height() for patch in histogram.patches]  # type: ignore[attr-defined]
    assert sum(heights) == 2000
    assert len(chart(machines[:MANY], "accuracy", "few").axes) == 1


def test_a_printed_table_of_predictions_obeys_no_name() -> None:
    frame = pl.DataFrame({"machine": ["\x1b[2J", "\x1b[2J", "pump"], "p_\x1b[1m": [0.1, 0.2, 0.3]})
    printed = str(shown_frame(frame))
    assert "\x1b" not in printed
    assert r"\x1b[2J" in printed
    assert frame["machine"][0] == "\x1b[2J"  # the file keeps the name


def test_a_machine_is_found_by_what_its_user_calls_it() -> None:
    """By its name, its site's or the unseen site's before it, whatever these are; what is exact first."""
    known = [("north", "x"), ("south-unseen", "x"), ("south", "y"), ("south-unseen", "y"), ("a/b", "c/d")]
    for name, expected in (
        ("north/x", ("north", "x")),
        ("north-unseen/x", ("north", "x")),
        ("south/x", ("south-unseen", "x")),
        ("south/y", ("south", "y")),
        ("south-unseen/y", ("south-unseen", "y")),
        ("a/b/c/d", ("a/b", "c/d")),
        ("c/d", ("a/b", "c/d")),
    ):
        assert find_machine(known, name, "a machine") == expected, name
    with pytest.raises(UserError, match=r"^machine x: 2 sites have one; say which: north/x, south-unseen/x$"):
        find_machine(known, "x", "a machine")
    with pytest.raises(UserError, match=r"^machine \\x1b: expected a pump, there are a/b/c/d, north/x, "):
        find_machine(known, "\x1b", "a pump")
    many = [("n", str(number)) for number in range(10)]
    with pytest.raises(UserError, match=r"n/7 and 2 more$"):
        find_machine(many, "x", "a machine")
