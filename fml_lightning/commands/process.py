"""What every command that runs for long does: read its settings, log to stderr, and stop on a signal."""

from __future__ import annotations

import gc
import logging
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse.typing import restricted_number_type

from fml_lightning.commands import COMMANDS
from fml_lightning.commands.allocator import keep_freed_memory, share_one_heap
from fml_lightning.commands.live_line import CLEAR
from fml_lightning.commands.parsing.arguments import Parser
from fml_lightning.commands.parsing.parse_error import sentence
from fml_lightning.errors import UserError
from fml_lightning.names import escaped

Port = restricted_number_type("Port", int, [(">=", 1), ("<=", 65535)])
"""A TCP port."""
PortOrFree = restricted_number_type("PortOrFree", int, [(">=", 0), ("<=", 65535)])
"""A TCP port to serve at; 0: any that is free."""


def parser(name: str) -> Parser:
    """The parser of a command, with `--config`."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    purpose = COMMANDS[name]
    made = Parser(prog=f"fml {name}", description=f"{purpose[0].upper()}{purpose[1:]}.")
    made.add_argument("--config", action="config", help="YAML file with any of the settings below")
    return made


def settings_of(
    options: Parser, arguments: Sequence[str], complete: Callable[[Namespace], None] = lambda parsed: None
) -> dict[str, Any]:
    """The settings of command line and `--config`, as objects; if one is wrong, exit with one sentence.

    Args:
        options: the command's.
        arguments: its command line.
        complete: sets what follows from other settings, before objects are made of them.
    """
    groups = options.groups or {}
    for group in groups.values():
        group.title = " ".join(
            (group.title or "").split()
        )  # it comes from a docstring, which may have line breaks
    try:
        parsed = options.parse_args(list(arguments))
    except UnicodeDecodeError as error:
        options.error(f"config: expected text in UTF-8 ({error})")
    dotted = {name.rpartition(".")[0] for name in options.options()} - {*options.options(), ""}
    for name in sorted({*groups} | dotted):
        if not isinstance(parsed.get(name), Namespace):
            options.error(f"{name}: expected settings by name, got {parsed.get(name)!r}")
    for name in options.left_empty(parsed):
        options.error(f"{name}: expected a value, got none; set one, or leave it out for the usual one")
    for name, value in vars(parsed).items():
        if isinstance(value, dict) and (no_text := [key for key in value if not isinstance(key, str)]):
            options.error(
                f"{name}: expected names, got {no_text[0]!r}, which YAML takes for none; put it in quotes"
            )
    complete(parsed)
    try:
        settings = dict(vars(options.instantiate_classes(parsed)))
    except UserError:
        raise
    except ValueError as error:  # with what jsonargparse says of every type that it has tried
        raise UserError(sentence(str(error))) from error
    del settings["config"]
    # The socket module takes nothing but a plain int.
    return {
        name: int(value) if isinstance(value, Port | PortOrFree) else value for name, value in settings.items()
    }


@contextmanager
def stopped_by_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGINT, so that the command ends in good order; a second one ends it at once."""
    # The signal may interrupt a thread that holds a lock which `stop` needs, so another thread calls `stop`.
    came: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def call() -> None:
        if came.get():
            stop()

    def handler(number: int, _frame: object) -> None:
        for each in before:
            signal.signal(each, before[each])
        came.put(True)

    caller = threading.Thread(target=call, name="stop", daemon=True)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    caller.start()
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        came.put(False)
        caller.join()


def settle() -> None:
    """Prepare the interpreter for a process that runs for long and moves many messages.

    The garbage collector no longer looks at what was imported; freed memory is kept; and threads take turns ten
    times as often as Python lets them: else the thread that writes messages would wait up to 5 ms for the thread
    that reads them, after every system call.
    """
    gc.collect()
    gc.freeze()
    keep_freed_memory()
    share_one_heap()
    sys.setswitchinterval(0.0005)


def log_to_stderr() -> None:
    """Warnings and errors of long-running commands, with their time; on a terminal, over the live line."""
    clear = CLEAR if sys.stderr.isatty() else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Escaped(f"{clear}%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _Escaped(logging.Formatter):
    """Escapes in messages, which repeat names from payloads, what a terminal would obey."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = escaped(record.message)
        return super().formatMessage(record)
