"""Records simulated machines into a site's spool, as told: `python -m spool_writer SPOOL SITE`.

Of each line `MACHINE SECONDS` it appends, all at once, what the machine has sent by so many seconds of its life,
and writes how many messages these are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fml_lightning.connectors.codecs import WaveformBlock
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.plant.plant import Planned, Plant
from fml_lightning.connectors.spool.folder import write_topics
from fml_lightning.connectors.spool.spool import Spool

BEGIN = 1_700_000_000_000_000  # µs since 1970
TOPICS = Topics((Topic("plant/{site}/{machine}/{channel}", WaveformBlock()),), (LabelTopic(),))
SENT = ("vibration", "events")


class Machine:
    """What a machine sends, from its first second on."""

    def __init__(self, plant: Plant, name: str) -> None:
        wanted = {f"plant/{site}/{name}/{kind}" for site in plant.site_names for kind in SENT}
        self._messages = (each for each in plant.messages(BEGIN) if each.topic in wanted)
        self._next: Planned = next(self._messages)

    def until(self, seconds: float) -> list[Message]:
        """What it sends next, up to a second of its life."""
        sent = []
        while self._next.due <= seconds:
            received = BEGIN + round(self._next.due * 1e6)
            sent.append(Message(self._next.topic, self._next.payload, received))
            self._next = next(self._messages)
        return sent


def main(folder: Path, site: str) -> None:
    """Write until the input ends."""
    number = int(site.removeprefix("plant"))
    plant = Plant(sites=1, first_site=number, machines=2, block=600, seconds_per_state=0.5)
    machines: dict[str, Machine] = {}
    with Spool(folder) as spool:
        write_topics(folder, TOPICS)
        for line in sys.stdin:
            name, seconds = line.split()
            if name not in machines:
                machines[name] = Machine(plant, name)
            messages = machines[name].until(float(seconds))
            spool.append(messages)
            print(len(messages), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
