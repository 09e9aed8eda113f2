"""Patterns of paths such as `data/{site}/{machine}/{label}_*.csv`: which files there are, and what names say."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from fml_lightning.datamodules.files.listed_file import ListedFile
from fml_lightning.errors import UserError
from fml_lightning.names import escaped

PLACE = re.compile(r"\{([a-z_]*)\}")
SHORTEST, LONGEST = ".+?", ".+"
"""Regular expressions of any text of a name: what is shortest, or longest, is tried first."""


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts `2.csv` before `10.csv`.

    >>> sorted(["10.csv", "2.csv", "a"], key=natural)
    ['2.csv', '10.csv', 'a']
    """
    parts = [part for part in re.split(r"(\d+)", text) if part]
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)


def find_files(pattern: str, classes: Collection[str] = ()) -> list[ListedFile]:
    """The files that a pattern finds, in natural order of their paths; hidden ones are left out.

    Places such as `{site}` stand for part of a name of a file or folder; the same place twice, for the same text
    twice. Wildcards are those of shells: `*`, `?`, `[...]`, and `**` for any folders.

    Args:
        pattern: of paths.
        classes: what `{label}` can be; any text if there are none.

    Raises:
        UserError: nothing is found, or a name is no text, or can be read in two ways.
    """
    places = PLACE.findall(pattern)
    if "" in places or re.search(r"[{}]", PLACE.sub("", pattern)):
        raise UserError(f"files: expected places such as {{site}} and wildcards, got {pattern!r}")
    start = Path(pattern).anchor or "."
    parts = [part for part in Path(pattern).parts if part != Path(pattern).anchor]
    found = [ListedFile(path, said, str(path)) for path, said in _walk(Path(start), parts, {}, classes)]
    if not found:
        fixed = Path(start)
        for part in parts:
            if re.search(r"[{*?\[]", part) or not (fixed / part).exists():
                break
            fixed /= part
        held = ", ".join(sorted(path.name for path in fixed.iterdir())[:5]) if fixed.is_dir() else ""
        raise UserError(
            f"files: expected files like {pattern!r}, got none; the folder {str(fixed)!r} holds"
            f" {held or 'nothing'}"
        )
    for file in found:
        if not _is_text(file.where):
            raise UserError(f"files: expected names in UTF-8, got {escaped(file.where)}; rename it")
    return sorted(found, key=lambda file: natural(str(file.path)))


def _is_text(path: str) -> bool:
    """Whether the bytes of a path are text, which names of sites and machines have to be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(
    folder: Path, parts: list[str], said: Mapping[str, str], classes: Collection[str]
) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """What the rest of a pattern finds below a folder, and what places stood for."""
    part, rest = parts[0], parts[1:]
    if part == "..":
        yield from _walk(folder / part, rest, said, classes)
        return
    if not folder.is_dir():
        return
    if part == "**":
        yield from _walk(folder, rest or ["*"], said, classes)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                yield from _walk(path, parts, said, classes)
        return
    for path in folder.iterdir():
        if (path.name.startswith(".") and not part.startswith(".")) or path.is_dir() != bool(rest):
            continue
        if (here := _read_name(path, part, said, classes)) is None:
            continue
        if rest:
            yield from _walk(path, rest, here, classes)
        else:
            yield path, here


def _read_name(
    path: Path, part: str, said: Mapping[str, str], classes: Collection[str]
) -> Mapping[str, str] | None:
    """What a name says, together with what is known; None if it does not fit.

    Raises:
        UserError: it can be read in two ways.
    """
    expressions = [_expression(part, any_text, said, classes) for any_text in (SHORTEST, LONGEST)]
    matches = [re.fullmatch(expression, path.name) for expression in expressions]
    readings = [{**said, **match.groupdict()} for match in matches if match]
    if not readings:
        # A label that is no class is told to the user where files are listed: it is no reason not to see the file.
        return _read_name(path, part, said, ()) if classes else None
    if readings[0] != readings[-1]:
        name = next(name for name, text in readings[0].items() if readings[-1][name] != text)
        raise UserError(
            f"{path}: expected one reading of {{{name}}} by {part!r}, got {readings[0][name]!r} or"
            f" {readings[-1][name]!r}; write a wildcard that fits once, such as [0-9]* for *, or name the classes"
        )
    return readings[0]


def _expression(part: str, any_text: str, said: Mapping[str, str], classes: Collection[str]) -> str:
    """The regular expression of one part of a pattern."""
    expression = ""
    seen = set(said)
    for token in re.findall(r"\{[a-z_]+\}|\[[^\]]+\]|.", part):
        if token.startswith("{"):
            name = token[1:-1]
            if name in said:
                expression += re.escape(said[name])
            elif name in seen:
                expression += f"(?P={name})"
            else:
                ordered = sorted(classes, key=len, reverse=any_text == LONGEST)
                among = "|".join(map(re.escape, ordered)) if name == "label" and classes else any_text
                expression += f"(?P<{name}>{among})"
            seen.add(name)
        elif token.startswith("[") and len(token) > 2:
            inside = token[1:-1].replace("\\", r"\\")
            expression += f"[^{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
        else:
            expression += {"*": any_text.replace("+", "*"), "?": "."}.get(token, re.escape(token))
    return expression
