"""What a site keeps outlives whatever ends its process: each state is there whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fml_lightning import MLP, Ditto, SiteMemory, durable
from fml_lightning.learners.learner import Learner

KILLING = """
import os, signal, sys, torch
from pathlib import Path
from test_site_memory import filled, learner, values
from fml_lightning import SiteMemory

torch.set_num_threads(1)
folder, first, made = Path(sys.argv[1]), 0, learner()
for kill in range(8):
    begin, end = os.pipe()
    child = os.fork()
    if child == 0:
        memory = SiteMemory(folder)
        for round_ in range(first, 1_000_000):
            memory.keep(filled(made, round_), "plant1", round_)
            os.write(end, f"{round_}\\n".encode())
    os.close(end)
    with os.fdopen(begin) as told_by:
        told = [int(told_by.readline()) for _ in range(kill % 3 + 1)]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told += [int(line) for line in told_by.read().split()]
    # What it told was on disk; the state that it was writing may have come too.
    SiteMemory(folder, frozenset({"plant1"})).restore(filled(made, -1.0), "plant1", 1_000_000)
    assert values(made) in ({float(told[-1])}, {told[-1] + 1.0}), (values(made), told)
    first = told[-1] + 1
"""
"""Processes that keep states for ever, forked from one that has imported torch, are killed at other moments."""


def learner() -> Learner:
    """So large that writing its state takes a while."""
    return Ditto(MLP(600, 4, hidden=(600,)))


def filled(made: Learner, value: float) -> Learner:
    """The learner with one number in all of its personal state, so that halves of two states show."""
    with torch.no_grad():
        for name, each in made.state_dict().items():
            if name.startswith("own."):
                each.fill_(value)
    return made


def values(made: Learner) -> set[float]:
    return {float(v) for n, each in made.state_dict().items() if n.startswith("own.") for v in each.unique()}


def test_a_process_killed_while_it_writes_leaves_whole_states(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    assert done.returncode == 0, done.stderr


class Crash(BaseException):
    """In place of a process's end."""


@pytest.mark.parametrize("after", range(7))
def test_whichever_step_is_the_last_one_the_states_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    memory, made = SiteMemory(tmp_path), learner()
    for round_ in (3, 4):
        memory.keep(filled(made, round_), "plant1", round_)
    left = after

    def crashing(real: object) -> object:
        def step(*arguments: object) -> object:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            return real(*arguments)  # type: ignore[operator]

        return step

    monkeypatch.setattr(durable.os, "fsync", crashing(os.fsync))
    monkeypatch.setattr(durable.os, "rename", crashing(os.rename))
    done = False
    try:
        memory.keep(filled(made, 5), "plant1", 5)
        done = True
    except Crash:
        pass
    monkeypatch.undo()
    assert done == (after >= 5)  # two files, each fsynced and renamed, and their folder
    memory.restore(filled(made, -1.0), "plant1", 6)
    assert values(made) == {5.0 if after >= 2 else 4.0}
    memory.restore(made, "plant1", 5)  # the round that is repeated
    assert values(made) == {4.0}
    memory.keep(filled(made, 7), "plant1", 5)
    memory.restore(filled(made, -1.0), "plant1", 6)
    assert values(made) == {7.0}
    memory.clear()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_line_that_a_crash_cut_short_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    durable.add_lines(path, [b"one"])
    with path.open("ab") as file:
        file.write(b"tw")
    durable.add_lines(path, [b"three"])
    assert path.read_bytes() == b"one\ntw\nthree\n"


def test_a_line_that_finds_no_room_leaves_the_file_as_it_was(full_disk: Path) -> None:
    path = full_disk / "lines"
    durable.add_lines(path, [b"one"])
    (full_disk / "rest").write_bytes(b"x" * (256 * 1024 - 8192))
    with pytest.raises(OSError, match="No space"):
        durable.add_lines(path, [b"y" * 16384])
    assert path.read_bytes() == b"one\n"
