"""States: numbers for words such as `running` and `stopped`."""

from __future__ import annotations

from collections.abc import Iterable

_OFF = {"off", "stopped", "stop", "idle", "closed", "close", "false", "no", "inactive", "ok", "normal", "standby"}
_ON = {"on", "running", "run", "open", "true", "yes", "active", "started", "start", "busy", "fault", "alarm"}


def state_numbers(words: Iterable[str]) -> dict[str, float]:
    """A number for each word: 0 for what means off, 1 for what means on, further ones for others.

    >>> state_numbers(["RUN", "stopped"]), state_numbers(["eco", "boost"])
    ({'stopped': 0, 'RUN': 1}, {'boost': 0, 'eco': 1})
    """
    found: dict[str, float] = {}
    every = sorted(set(words))
    for word in every:
        if word.strip().lower() in _OFF | _ON:
            found[word] = int(word.strip().lower() in _ON)
    free = iter(range(2 if found else 0, len(every) + 3))
    found |= {word: next(free) for word in every if word not in found}
    return dict(sorted(found.items(), key=lambda item: item[1]))
