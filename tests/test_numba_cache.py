"""Compiled code has a folder, whoever runs us."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from fml_lightning.preprocessing.numba_cache import name_cache


@pytest.fixture(autouse=True)
def _nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Set first, so that what name_cache sets is undone after the test.
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_it_is_below_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    name_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "home/.cache/fml-lightning/numba")


@pytest.mark.parametrize("home", [None, "/dev/null"])
def test_without_a_home_it_is_a_temporary_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str | None
) -> None:
    """As under `setpriv --reuid 61001`: there is no account, and the home is not told, or is none."""

    def no_account(user: int) -> pwd.struct_passwd:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", no_account)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    name_cache()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).parent == tmp_path


def test_what_the_user_has_named_holds_and_nothing_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/named")
    name_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == "/named"
    assert list(tmp_path.iterdir()) == []
