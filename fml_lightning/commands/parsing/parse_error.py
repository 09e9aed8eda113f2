"""What jsonargparse says of arguments that it refuses, as one sentence: where, what was expected, what came.

jsonargparse tells of every type that it tried, as an indented tree: keys (`Parser key "net":`), the classes whose
settings they are (`Problem with given class_path 'fml_lightning.MAML':`), and at the ends the reasons. The deepest
reason is the one that the user can mend: what came fitted everything above it.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

KEY = re.compile(r'Parser key "(?P<key>[^"]+)":\s*(?P<rest>.*)')
CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)':\s*(?P<rest>.*)")
CALLABLE = re.compile(r"Type (?P<type>.+?) expects a function or a callable class: (?P<reason>.*)")
GOT = re.compile(r"(?P<reason>.*?)\.* Got value: (?P<value>.*)", re.DOTALL)
MISSING = re.compile(r"(?:the following arguments are required|Missing required (?:fields|keys)): (?P<names>.*)")
UNKNOWN = (
    re.compile(r"unrecognized arguments: (?P<name>.*)"),
    re.compile(r"Option '(?P<name>[^']+)' is not accepted.*"),
    re.compile(r"(?:Group|Subcommand) '(?P<group>[^']+)' does not accept option '(?P<name>[^']+)'"),
    re.compile(r"No action for key \"(?P<name>[^\"]+)\".*"),
    re.compile(r"Unexpected (?:fields|keys): \{?'?(?P<name>[^'}]+)'?.*"),
    re.compile(r"Key \"(?P<name>[^\"]+)\" not found in namespace.*"),
)
PROTOCOL = "Does not implement protocol "
NO_CLASS = (
    re.compile(r"Expected a dot import path string: (?P<name>.*)"),
    re.compile(r"Expected a path but (?P<name>.*?) either not accessible or invalid"),
    re.compile(r"Unexpected import path format: (?P<name>.*)"),
)
MOVED = {("SpoolFleet", "max_wait"): "model.max_wait", ("SpoolFleet", "quorum"): "model.quorum"}
"""Where settings are now that a class had before: by the class and the setting."""
IGNORED = ("Subtypes:", "Errors:", "Given value type:", "Does not validate", "Unable to load config ")
RANK_OF_CLASS, RANK_OF_TYPE, RANK_OF_PATH = 2, 1, 0
"""A reason that names what is wrong tells more than a type that did not fit, and that more than a missing file."""


@dataclass(frozen=True)
class Reason:
    """An end of the tree, with what is above it."""

    text: str
    keys: tuple[str, ...] = ()
    """The keys above, the outermost first."""
    owner: str = ""
    """The class whose settings were read."""
    depth: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Reasons of a higher rank tell more."""
        if self.text.startswith("Expected a path but"):
            return self.depth, RANK_OF_PATH
        is_type = re.fullmatch(
            rf"(Expected an? (<class|typing\.|[\w.]+\[)|{PROTOCOL}).*", self.text.split(". Got value")[0]
        )
        return self.depth, RANK_OF_TYPE if is_type else RANK_OF_CLASS


def sentence(message: str, options: Sequence[str] = ()) -> str:
    r"""What matters of it.

    Args:
        message: jsonargparse's.
        options: the keys that the parser knows, of which a near one is named where one is unknown.

    >>> sentence("Parser key \"model.local_steps\":\n  Expected a <class 'int'>. Got value: x")
    'model.local_steps: expected int, got x'
    """
    if special := _of_the_file(message):
        return special
    reasons, given = _reasons(message)
    if not reasons:
        return " ".join(message.split())
    best = max(reasons, key=lambda reason: reason.rank)
    where = ".".join(best.keys)
    alike = [r.text for r in reasons if r.keys == best.keys and r.rank[1] == RANK_OF_TYPE == best.rank[1]]
    if alike:
        types = " or ".join(dict.fromkeys(_type_name(text) for text in alike))
        found = GOT.fullmatch(best.text)
        value = found["value"] if found else given.get(best.keys, "something else")
        return f"{where}: expected {types}, got {_short(value)}"
    in_list = given.get(best.keys, "").startswith("[")
    said = _plain(best, where, options, in_list)
    return f"{where}: {said}" if where else said


def _reasons(message: str) -> tuple[list[Reason], dict[tuple[str, ...], str]]:
    """The ends of the tree, and the value given for each key."""
    stack: list[tuple[int, str, str]] = []  # indent, key, class
    reasons: list[Reason] = []
    given: dict[tuple[str, ...], str] = {}
    skipping: int | None = None  # the indent of an explanation that goes on over the next, deeper lines
    for line in message.splitlines():
        body = line.strip()
        indent = len(line) - len(line.lstrip())
        if not body or (skipping is not None and indent > skipping):
            continue
        skipping = None
        if body.startswith("- "):
            body, indent = body[2:], indent + 2
        while stack and stack[-1][0] >= indent and not body.startswith(("Subtypes:", "Errors:", "Given value")):
            stack.pop()
        keys = tuple(dict.fromkeys(key for _, key, _ in stack if key))
        if body.startswith("Given value: "):  # the last is the whole of what was given for the key
            given[keys] = body.removeprefix("Given value: ")
        elif body.startswith(("Not a valid subclass", PROTOCOL)):
            skipping = indent - 1
            if body.startswith(PROTOCOL):
                reasons.append(_reason(body, stack))
        elif body.startswith(IGNORED) or "NoneType" in body:
            continue
        elif opened := KEY.fullmatch(body) or CLASS.fullmatch(body):
            key, path = opened.groupdict().get("key", ""), opened.groupdict().get("path", "")
            stack.append((indent, key, path))
            if opened["rest"]:
                reasons.append(_reason(opened["rest"], stack))
        else:
            reasons.append(_reason(body, stack))
    return reasons, given


def _reason(text: str, stack: list[tuple[int, str, str]]) -> Reason:
    keys = tuple(dict.fromkeys(key for _, key, _ in stack if key))
    owner = next((path for _, _, path in reversed(stack) if path), "")
    return Reason(text, keys, owner, len(stack))


def _plain(reason: Reason, where: str, options: Sequence[str], in_list: bool) -> str:
    """A reason in plain words; `in_list`: it is of an item of a list, which no option can name."""
    text, prefix = reason.text, f"{where}." if where else ""
    got = ""
    if found := CALLABLE.fullmatch(text):
        inner = GOT.fullmatch(found["reason"])
        text = inner["reason"] if inner else found["reason"]
        is_function = "Tensor" in found["type"] or "Any" in found["type"]  # else a factory of optimizers
        expected = "a function or a class to call" if is_function else "a class"
        if text.startswith(("Expected '", "Expected an import path")):
            value = inner["value"] if inner else text.partition("but got ")[2]
            return f"expected {expected}, by its import path, got {_short(_class_path(value))}"
    elif found := GOT.fullmatch(text):
        text, got = found["reason"], f", got {_short(found['value'])}"
    if found := MISSING.fullmatch(text):
        names = [name.strip(" '{}[]").rpartition(".")[2] for name in found["names"].split(",")]
        verb = "is" if len(names) == 1 else "are"
        if options and not where and not {*names} & {*options}:
            return f"{', '.join(names)} {verb} missing; see --help"
        options = " ".join(f"--{prefix}{name}" for name in names)
        if in_list:
            settings = ", ".join(f"{name}: ..." for name in names)
            return f"{', '.join(names)} {verb} missing: give {reason.owner or 'it'} init_args: {{{settings}}}"
        return f"{', '.join(names)} {verb} missing: set {options}{f' for {reason.owner}' if reason.owner else ''}"
    for pattern in UNKNOWN:
        if found := pattern.fullmatch(text):
            return _unknown(found["name"], found.groupdict().get("group", ""), reason, text, options)
    for pattern in NO_CLASS:
        if found := pattern.fullmatch(text):
            name = _short(found["name"])
            if not name.replace(".", "").isidentifier():
                return f"expected settings by name or a class by its import path, got {name}"
            return f"no class and no file {name}; give the class's import path, as package.module.Class"
    if found := re.fullmatch(r"module '(.+)' has no attribute '(.+)'", text):
        return f"no class and no file {found[1]}.{found[2]}{_near(found[2], _names_in(found[1]))}"
    if found := re.fullmatch(r"No module named '(.+)'", text):
        return f"no module {found[1]!r} to import from; is it installed, or a file in the working folder?"
    if found := re.fullmatch(r"Import path (\S+) does not correspond to a subclass of (.+)", text):
        return f"expected a {found[2]}, got {found[1]}"
    if found := re.fullmatch(r"Expected an? (?:<class '[\w.]*?(\w+)'>)", text):
        return f"expected {found[1]}{got}"
    if found := re.search(r"v>=(\S+) and v<=(\S+)", text):
        return f"expected {found[1]} to {found[2]}{got}"
    if re.fullmatch(r"argument of type '\w+' is not iterable", text):
        return "expected a class's import path as class_path"
    if found := re.fullmatch(r"Unable to load config \"(.*)\"", text):
        return f"expected settings by name, got {_short(found[1])}"
    return f"{text[0].lower() if text.startswith('Expected') else text[0]}{text[1:]}{got}"


def _unknown(given: str, group: str, reason: Reason, text: str, options: Sequence[str]) -> str:
    name, _, value = given.strip().removeprefix("--").partition("=")
    if group:
        return f"{group}: no option {name!r}{_near_key(name, options)}"
    if not reason.keys and not reason.owner:
        if text.startswith("Option"):
            return f"--config: {name!r} is no setting of this command{_near_key(name, options)}"
        if not given.strip().startswith("-"):
            return f"unknown argument {given!r}; options begin with --"
        name = name.split()[0]
        dashes = "--" if given.strip().startswith("--") else ""
        return f"no option {dashes}{name}{_near_key(name, options) or '; see --help'}"
    called = re.search(r"class_path='([^']+)'", reason.text)
    owner = called[1] if called else reason.owner
    if new := MOVED.get((owner.rpartition(".")[2], name)):
        return f"no {name} of {owner} any more; set {new} in its place"
    near = _near(name.split(".")[0], _settings_of(owner))
    if text.startswith("Option"):
        return f"option {name!r} is not accepted{f' by {owner}' if owner else ''}{near}"
    return f"no option {name}{f' of {owner}' if owner else ''}{f', given {_short(value)}' if value else ''}{near}"


def _of_the_file(message: str) -> str | None:
    """A config file that cannot be read at all."""
    if found := re.match(r"Problems parsing config: (.*)", message, re.DOTALL):
        lines = " ".join(re.sub(r'in "<[^>]*>", ', "at ", found[1]).split())
        tab = "; YAML is indented with spaces, not tabs" if "cannot start any token" in lines else ""
        return f"--config: expected YAML, got a file that is none: {lines}{tab}"
    if found := re.match(r"Unexpected config: (.*)", message, re.DOTALL):
        what = found[1].strip()
        kind = f"{_short(what)!r}" if what else "an empty file"
        return f"--config: expected settings by name, as KEY: VALUE, got {kind}"
    if found := re.match(r'Parser key "(\w+)": (File does not exist|Path is not a file): (.*)', message):
        return f"{found[1]}: {found[2]}: {found[3]}"
    return None


def _type_name(text: str) -> str:
    """`int` of `Expected a <class 'int'>`, the values of a Literal."""
    text = re.sub(rf"^(Expected an? |{PROTOCOL})", "", text.split(". Got value")[0])
    if found := re.fullmatch(r"<class '(?:[\w.]*\.)?(\w+)'>", text):
        return {"Sequence": "a list", "Iterable": "a list", "Mapping": "settings by name"}.get(found[1], found[1])
    if found := re.fullmatch(r"(?:typing\.)?Literal(\[.*\])", text):
        values = ast.literal_eval(found[1])
        return " or ".join(str(value) for value in values)
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)


def _class_path(value: str) -> str:
    found = re.fullmatch(r"Namespace\(class_path='([^']+)'.*\)", value, re.DOTALL)
    return found[1] if found else value


def _names_in(module: str) -> list[str]:
    return (
        [name for name in dir(sys.modules.get(module)) if not name.startswith("_")]
        if module in sys.modules
        else []
    )


def _settings_of(class_path: str) -> list[str]:
    """The names of the settings of a class that was imported to read them."""
    module, _, name = class_path.rpartition(".")
    made = getattr(sys.modules.get(module), name, None)
    if made is None:
        return []
    names: list[str] = []
    for each in inspect.getmro(made) if inspect.isclass(made) else [made]:
        try:
            names += inspect.signature(each).parameters
        except (TypeError, ValueError):
            continue
    return names


def _near_key(key: str, keys: Sequence[str]) -> str:
    """A near one among dotted keys, of the same group if there is one."""
    group = key.rpartition(".")[0]
    return _near(key, [each for each in keys if each.rpartition(".")[0] == group]) or _near(key, list(keys))


def _near(name: str, names: list[str]) -> str:
    others = dict.fromkeys(
        each for each in names if each != name
    )  # a class may fix what its base class leaves open
    near = get_close_matches(name, others, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _short(value: str, longest: int = 120) -> str:
    value = " ".join(value.split())
    if found := re.fullmatch(r"NestedArg\(key='[^']*', val=(.*)\)", value):
        value = found[1]
    return value if len(value) <= longest else f"{value[: longest - 1]}…"
