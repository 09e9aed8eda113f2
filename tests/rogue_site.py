"""`fml site` whose answers are hurt as a file says: `python -m rogue_site FAULTS --config site.yaml --kit KIT`.

The file holds one word: `slow SECONDS`, `hold ROUND` (that round and later ones, as long as the file is there),
`die` (once, in the middle of the work), `halfway` (die once half of what is personal is written), `nan`, `shape`,
`garbage`, `again` (an answer that was given before), `other` (another round's), or nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from fml_lightning.__main__ import main
from fml_lightning.executors import site_memory
from fml_lightning.executors.site_process import SiteProcess
from fml_lightning.executors.wire import pack, unpack

honest = SiteProcess.answer
replace = site_memory.replace
earlier: list[bytes] = []


def replace_or_die(path: Path, content: bytes | memoryview) -> None:
    """Write a file as a site does, or half of a state."""
    if path.suffix == ".pt" and faults.exists() and faults.read_text() == "halfway":
        with path.with_name(f"{path.name}.tmp").open("wb") as file:
            file.write(content[: len(content) // 2])
        faults.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    replace(path, content)


def answer(site: SiteProcess, message: bytes) -> bytes:
    """The honest answer, hurt."""
    fault, *more = (faults.read_text().split() if faults.exists() else []) or ["none"]
    if fault == "die":
        faults.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "slow":
        time.sleep(float(more[0]))
    while fault == "hold" and unpack(message)[0]["round"] >= int(more[0]) and faults.exists():
        time.sleep(0.05)
    given = honest(site, message)
    earlier.append(given)
    if fault == "garbage":
        return b"\xff" * 1000
    if fault == "again":
        return earlier[0]
    head, params = unpack(given)
    if fault == "nan":
        params = {name: p * float("nan") for name, p in params.items()}
    elif fault == "shape":
        params = {name: p[:1] for name, p in params.items()}
    elif fault == "other":
        head["round"] += 1
    else:
        return given
    return pack(head, params)


if __name__ == "__main__":
    faults = Path(sys.argv.pop(1))
    SiteProcess.answer = answer  # type: ignore[method-assign]
    site_memory.replace = replace_or_die
    main()
