"""Faults: a plan made from a seed, so that it can be printed first and run again, and the one who carries it out."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from tests.e2e.system import ALL, Program, System

GAP_SECONDS = (0.3, 1.5)
QUIET = 0.25
PAUSED = 0.08
PAUSE_SECONDS = (1.0, 3.0)
FROZEN = 0.15
FREEZE_SECONDS = (0.1, 1.0)
AT_ONCE = 0.5
BURST = 0.5
BURST_ARRIVED = 300
BURST_SECONDS = 4.0


class Fault(NamedTuple):
    """After ``wait`` seconds: nothing, a kill -9 with a restart after ``seconds``, or a SIGSTOP for ``seconds``. ``burst``
    wants a burst of events first, and so many deliveries to have arrived since, so that the kill falls into full traffic.
    ``frozen`` is for how long the victim hangs (SIGSTOP) before it is killed: what it was sent is under way all that time."""

    wait: float
    kind: Literal["quiet", "kill", "pause"]
    victim: str = ""
    seconds: float = 0.0
    burst: int | None = None
    frozen: float = 0.0

    def __str__(self) -> str:
        words = [f"+{self.wait:.2f}", self.kind, self.victim]
        words += [f"({self.seconds:.2f})"] if self.victim else []
        words += [] if self.burst is None else [f"burst={self.burst}"]
        words += [f"hung={self.frozen:.2f}"] if self.frozen else []
        return " ".join(filter(None, words))


def plan(seed: int, kills: int) -> list[Fault]:
    """Faults with so many kills among them; a quarter of all periods has none."""
    dice = random.Random(seed)
    found: list[Fault] = []
    while kills:
        wait = dice.uniform(*GAP_SECONDS)
        if dice.random() < QUIET:
            found.append(Fault(wait, "quiet"))
        elif dice.random() < PAUSED:
            found.append(Fault(wait, "pause", dice.choice(ALL), dice.uniform(*PAUSE_SECONDS)))
        else:
            seconds = 0.0 if dice.random() < AT_ONCE else dice.uniform(0, 1)
            burst = dice.randrange(BURST_ARRIVED) if dice.random() < BURST else None
            frozen = dice.uniform(*FREEZE_SECONDS) if dice.random() < FROZEN else 0.0
            found.append(Fault(wait, "kill", dice.choice(ALL), seconds, burst, frozen))
            kills -= 1
    return found


class Nemesis:
    """Carries a plan out. ``done`` counts what was done to whom, ``deaths`` the processes that ended without our doing."""

    def __init__(self, system: System, burst: Callable[[], None], arrived: Callable[[], int]) -> None:
        self._system = system
        self._burst = burst
        self._arrived = arrived
        self._healing: dict[str, asyncio.Task[None]] = {}
        self.done: Counter[str] = Counter()
        self.deaths: list[str] = []

    async def run(self, faults: Sequence[Fault], tell: Callable[[], None]) -> None:
        """All of the plan, and everybody alive again afterwards."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(fault.wait)
                if fault.victim:
                    await self._strike(fault, tasks)
                tell()
        for program in self._system.programs.values():
            self._revive(program)

    async def _strike(self, fault: Fault, tasks: asyncio.TaskGroup) -> None:
        if fault.victim in self._healing:  # still down, or paused, from the last time
            await self._healing[fault.victim]
        program = self._system.programs[fault.victim]
        self._revive(program)
        if fault.burst is not None:
            await self._traffic(fault.burst)
        self.done[f"{fault.kind} {fault.victim}"] += 1
        if fault.kind == "kill":
            if fault.frozen:
                program.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.frozen)
            program.kill()
            if not fault.seconds:
                program.start()
                return
            self._healing[fault.victim] = tasks.create_task(_later(fault.seconds, program.start))
        else:
            program.signal(signal.SIGSTOP)
            self._healing[fault.victim] = tasks.create_task(_later(fault.seconds, lambda: program.signal(signal.SIGCONT)))

    async def _traffic(self, arrivals: int) -> None:
        """Make a burst and wait, a few seconds at most, until so many deliveries have arrived."""
        wanted, deadline = self._arrived() + arrivals, time.monotonic() + BURST_SECONDS
        self._burst()
        while self._arrived() < wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.002)

    def _revive(self, program: Program) -> None:
        """Nobody should be dead at this point; who is was not killed by us."""
        if not program.alive:
            self.deaths.append(f"{program.name} at {time.strftime('%X')}")
            program.start()


async def _later(seconds: float, act: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    act()
