"""What a site keeps outlives whatever ends its process: each state is there whole, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fml_lightning import MLP, Ditto, SiteMemory, durable
from fml_lightning.learners.learner import Learner

KEEPING = """
import sys, torch
from pathlib import Path
from tests.test_site_memory import filled, learner
from fml_lightning import SiteMemory

memory, made = SiteMemory(Path(sys.argv[1])), learner()
for round_ in range(int(sys.argv[2]), 1_000_000):
    memory.keep(filled(made, round_), "plant1", round_)
    print(round_, flush=True)
"""


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
    first, made = 0, learner()
    for kill in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPING, str(tmp_path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parent.parent,
        )
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(kill % 3 + 1)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        told += [int(line) for line in process.stdout.read().split()]
        process.stdout.close()
        # What it told was on disk; the state that it was writing may have come too.
        SiteMemory(tmp_path, frozenset({"plant1"})).restore(filled(made, -1.0), "plant1", 1_000_000)
        assert values(made) in ({float(told[-1])}, {told[-1] + 1.0})
        first = told[-1] + 1


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
    monkeypatch.setattr(durable.os, "replace", crashing(os.replace))
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
    durable.append(path, b"one")
    with path.open("ab") as file:
        file.write(b"tw")
    durable.append(path, b"three")
    assert path.read_bytes() == b"one\ntw\nthree\n"


def test_a_line_that_finds_no_room_leaves_the_file_as_it_was(full_disk: Path) -> None:
    path = full_disk / "lines"
    durable.append(path, b"one")
    (full_disk / "rest").write_bytes(b"x" * (256 * 1024 - 8192))
    with pytest.raises(OSError, match="No space"):
        durable.append(path, b"y" * 16384)
    assert path.read_bytes() == b"one\n"
