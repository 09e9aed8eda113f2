"""A site whose data grow: its windows come from a spool that is read while it fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from fml_lightning.datamodules.episodes import Episodes
from fml_lightning.datamodules.machine_windows import MachineWindows
from fml_lightning.datamodules.site import SiteData, of_machine
from fml_lightning.datamodules.spool.left_out import Reason, told
from fml_lightning.datamodules.spool.stream import SpoolStream
from fml_lightning.datamodules.stacked_tasks import count_examples
from fml_lightning.datamodules.tasks import own_orders
from fml_lightning.errors import NotYetError
from fml_lightning.preprocessing.preprocessing import Preprocessing
from fml_lightning.stream_timing import StreamTiming
from fml_lightning.types import Episode


class SpoolSite(SiteData):
    """A site whose data grow. Before it draws episodes, it takes in what has arrived.

    So in a Federation round k trains on what has arrived by round k. Tasks are drawn from the machines, and the
    classes, that have enough windows by then; the others are left out until they have. As data grow, the cut
    between early and late windows moves on: windows that judged a round may be trained on in a later one. Windows
    that have no label are predicted where they began after those that a machine adapts on, and do nothing else.

    Args:
        name: the site's name, unique in a fleet.
        stream: what has come so far; sites may share one.
        holds: which machines of the stream are this site's, by name.
        episodes: how episodes are drawn.
    """

    def __init__(self, name: str, stream: SpoolStream, holds: Callable[[str], bool], episodes: Episodes) -> None:
        super().__init__(name, (), stream.preprocessing, episodes)
        self.stream = stream
        self.holds = holds

    @property
    def machines(self) -> list[MachineWindows]:
        """Each machine's windows so far, labelled or not, sorted by name."""
        machines = self._machines
        return own_orders(machines, len(self.stream.labels.classes)) if self.episodes.own_order else machines

    @property
    def _machines(self) -> list[MachineWindows]:
        """The same with the fleet's labels."""
        return [machine for machine in self.stream.machines() if self.holds(machine.name)]

    @property
    def machine_names(self) -> list[str]:
        """The machines that have sent anything so far, sorted."""
        return [name for name in self.stream.machine_names if self.holds(name)]

    @property
    def num_examples(self) -> int:
        """The windows that training drew from when it last began; what has arrived since is not taken in."""
        return count_examples(self._ready(self._enough_to_train, 0), self.episodes)

    def training_machines(self) -> list[MachineWindows]:
        """The machines that have enough early windows by now.

        Raises:
            NotYetError: there is none.
        """
        return self._drawable(self._enough_to_train, 0)

    def evaluated_machines(self) -> list[MachineWindows]:
        """The machines that have enough early windows to adapt on, and later ones, by now.

        Raises:
            NotYetError: there is none.
        """
        return self._drawable(self.episodes.shots, 1)

    def personal_episode(self, machine: str, seed: int) -> Episode:
        """One machine's episode of one task: `shots` early support windows per class, all late ones as query.

        Raises:
            NotYetError: the machine has too few windows yet.
            UserError: the site has no such machine.
        """
        self.stream.take_in()
        ready = {each.name for each in self._ready(self.episodes.shots, 1)}
        if machine in self.machine_names and machine not in ready:
            raise NotYetError(f"{machine}: {self._lack([machine], self.episodes.shots, 1)}")
        return super().personal_episode(machine, seed)

    def preprocessing_of(self, machine: str) -> Preprocessing:
        """The preprocessing with the sample rate and the unit of a machine's windows so far, if they have one."""
        own = [each for each in self._machines if each.name == machine]
        periods = [period for each in own for side in (each.early, each.late) for period in side.period.tolist()]
        rates = [round(1e6 / period, 6) for period in periods]  # as it was before it became a period
        return of_machine(self.preprocessing, rates, self.stream.windows.units_of(machine))

    def nameplate_of(self, machine: str) -> dict[str, float]:
        """The numbers that `preprocessing.needs` and that the machine's nameplate tells, by name."""
        told = self.stream.nameplate(machine)
        return {name: float(told[name]) for name in self.preprocessing.needs if name in told}

    @property
    def timing(self) -> StreamTiming:
        """By which the machines' windows are cut."""
        return self.stream.timing

    @property
    def _enough_to_train(self) -> int:
        return self.episodes.while_training.shots + self.episodes.queries

    def _drawable(self, early: int, late: int) -> list[MachineWindows]:
        self.stream.take_in()
        ready = self._ready(early, late)
        if not ready:
            raise NotYetError(f"{self.name}: {self._lack(self.machine_names, early, late)}")
        return ready

    def _ready(self, early: int, late: int) -> list[MachineWindows]:
        found = [self.episodes.drawable(machine, early, late) for machine in self.machines]
        return [machine for machine in found if machine is not None]

    def _lack(self, names: Sequence[str], early: int, late: int) -> str:
        """What is missing before tasks can be drawn from any of these machines."""
        if not self.stream.machine_names:
            return self.stream.why_empty()
        if not names:
            return f"none of its machines so far is to be used here ({', '.join(self.stream.machine_names)})"
        classes, normal = self.stream.labels.classes, self.episodes.normal
        of = f"each of {self.episodes.ways or 2} classes"
        if self.episodes.of == "as they come":
            of = "any class"
        elif isinstance(normal, int):
            of = f"class {classes[normal]}"
        need = (
            f"{early} early {'window' if early == 1 else 'windows'}"
            + (f" and {late} late one" if late else "")
            + f" of {of}"
        )
        counts = {name: (Counter[int](), Counter[int]()) for name in names}
        for machine in self._machines:
            if machine.name in counts:
                counts[machine.name] = Counter(machine.early.label.tolist()), Counter(machine.late.label.tolist())
        best = max(counts, key=lambda name: counts[name][0].total())
        has = ", ".join(f"{label} {counts[best][0][k]} + {counts[best][1][k]}" for k, label in enumerate(classes))
        left_out = self.stream.windows.left_out(best)
        unlabelled = left_out.pop(Reason.NO_LABEL, 0)
        parts = [
            f"expected a machine with {need}; {best} has (early + late) {has}, and {unlabelled} without a label",
            told(left_out),
            self.stream.windows.gaps(best),
        ]
        return "; ".join(part for part in parts if part)
