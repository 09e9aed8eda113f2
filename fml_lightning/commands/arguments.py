"""Command-line arguments whose errors are one sentence."""

from __future__ import annotations

import re
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser


class Parser(ArgumentParser):
    """jsonargparse's parser, which prints an error without the usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"fml: error: {sentence(message)}", file=sys.stderr)
        sys.exit(2)


OPTIONAL = re.compile(
    r"""Parser\ key\ "([^"]+)":\s+Does\ not\ validate  # the innermost key of a type that may be null
    (?:(?!Parser\ key).)*?-\ Expected\ a\ (?:<class\ '(?!NoneType)(\w+)'>|typing\.([^\n]+))
    (?:(?!Parser\ key).)*?Given\ value:\ ([^\n]*)""",
    re.DOTALL | re.VERBOSE,
)
"""What jsonargparse says of a value that is neither null nor what its option takes."""


def sentence(message: str) -> str:
    """What matters of jsonargparse's account of every type it tried in vain."""
    key = re.match(r'Parser key "([^"]+)":\s', message)
    if found := re.search(OPTIONAL, message):
        outer = f"{key[1]}." if key and key[1] != found[1] else ""
        return f"{outer}{found[1]}: expected {found[2] or found[3]}, got {found[4]}"
    body = re.split(r"\n\s*Given value", message)[0]
    tried = [part for part in re.split(r"\n\s*- ", body)[1:] if "NoneType" not in part]
    if tried:
        telling = [part for part in tried if not part.startswith("Expected a <class")] or tried
        body = f"{key[1]}: {telling[0]}" if key else telling[0]
    for pattern, plain in (
        (r'Parser key "([^"]+)"', r"\1"),
        (r"Problem with given class_path '([^']+)'", r"\1"),
        (r"Expected a path but (\S+) either not accessible or invalid", r"no class and no file \1"),
        (r"unrecognized arguments: --(\S+?)=", r"no option \1, given "),
        (r"Expected a <class '(\w+)'>\. Got value: ", r"expected \1, got "),
        (r"Not of type \w+:.*restriction v>=(\S+) and v<=(\S+)", r"expected \1 to \2"),
        (
            r"the following arguments are required: (?:\w+\.)*(\w+)",
            rf"\1 is missing: set --{key[1] + '.' if key else ''}\1",
        ),
    ):
        body = re.sub(pattern, plain, body)
    return " ".join(body.split())
