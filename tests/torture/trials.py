"""One trial: disturb a command at one moment, look at the books, give the command again, compare the outcome."""

import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture.jobs import STAGES, Job
from tests.torture.lab import Copy, Lab, Scene
from tests.torture.points import AFTER, BEFORE
from tests.torture.zygote import Child, Ended

#: What a disturbed command may end with: done, refused with one line, partly done, tripped.
CODES = (0, 1, 3, 4)


class TrialError(AssertionError):
    """A disturbed command left something behind that it must not."""


@dataclass(frozen=True)
class Undisturbed:
    """What a command comes to when nothing disturbs it."""

    outcome: dict[str, Any]
    endowments: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    done: frozenset[str]
    seconds: float
    workers: int

    @property
    def points(self) -> list[str]:
        """Return the names of its moments, each once, in order."""
        return list(dict.fromkeys(self.names))


class Bench:
    """A job on its scene, to be disturbed again and again."""

    def __init__(self, lab: Lab, job: Job) -> None:
        self.lab, self.job = lab, job
        self.scene: Scene = lab.scene(job.seeds, job.before)
        self.undisturbed = self._observe()

    def _observe(self) -> Undisturbed:
        with self.scene.copy() as copy:
            before = copy.inspect()
            begun = time.monotonic()
            ended = copy.run(self._argv(copy))
            seconds = time.monotonic() - begun
            after = copy.inspect()
            self._remove_file(copy)
        problems = [] if ended.result and ended.result["code"] in self.job.codes else [f"ended with {_told(ended)}"]
        problems += after["violations"]
        if problems:
            raise TrialError(f"{self.job.name}, undisturbed: {problems}")
        endowments = (before["endowment"], after["endowment"])
        names, done = tuple(ended.result["names"]), frozenset(ended.result["done"])
        return Undisturbed(after["dump"], endowments, names, done, seconds, after["workers"])

    # What can be done to it

    def kill_at(self, name: str, when: str, occurrence: int = 1) -> None:
        """Kill it at a named moment."""
        label = f"killed {when} {name} ({occurrence})"
        with self.scene.copy() as copy:
            ended = copy.run(self._argv(copy), kill={"name": name, "when": when, "occurrence": occurrence})
            if not ended.killed:
                raise TrialError(f"{self.job.name}, {label}: it was not, and ended with {_told(ended)}")
            self._reckon(copy, label)

    def kill_at_position(self, position: int, when: str) -> None:
        """Kill it at a moment given by its number; it may have ended before."""
        label = f"killed {when} moment {position}"
        with self.scene.copy() as copy:
            ended = copy.run(self._argv(copy), kill={"position": position, "when": when})
            self._look_at_end(ended, label, killed=True)
            self._reckon(copy, label)

    def kill_after(self, seconds: float) -> bool:
        """Kill it after a time, wherever it is; return whether it was still alive."""
        label = f"killed after {seconds:.4f} s"
        with self.scene.copy() as copy:
            child: Child = copy.start(self._argv(copy))
            time.sleep(seconds)
            child.kill()
            ended = child.wait()
            self._look_at_end(ended, label, killed=True)
            self._reckon(copy, label)
        return ended.killed

    def kill_anywhere(self, dice: random.Random) -> bool:
        """Kill it at a random time."""
        return self.kill_after(dice.uniform(0, self.undisturbed.seconds * 1.05))

    def kill_helper_after(self, seconds: float) -> bool:
        """Kill the process that it has started, after a time; return whether there was one."""
        label = f"helper killed after {seconds:.4f} s"
        with self.scene.copy() as copy:
            child: Child = copy.start(self._argv(copy))
            time.sleep(seconds)
            helpers = child.helpers()
            for pid in helpers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ended = child.wait()
            if ended.code or ended.result["code"] not in self.job.codes:
                raise TrialError(f"{self.job.name}, {label}: it ended with {_told(ended)}")
            self._reckon(copy, label)
        return bool(helpers)

    def disturb(self, how: Callable[[], None], label: str) -> bool:
        """Do something while it is at work; return whether it noticed."""
        with self.scene.copy() as copy:
            child: Child = copy.start(self._argv(copy))
            how()
            ended = child.wait()
            self._look_at_end(ended, label)
            self._reckon(copy, label)
        return len(ended.result["names"]) != len(self.undisturbed.names) or ended.result["code"] not in self.job.codes

    def fail_at(self, position: int, error: str) -> bool:
        """Let one statement or commit, given by its number, end with an error; return whether it came to that."""
        label = f"{error} at moment {position} ({self._name(position)})"
        with self.scene.copy() as copy:
            ended = copy.run(self._argv(copy), fail={"position": position, "error": error})
            self._look_at_end(ended, label)
            self._reckon(copy, label, self.job.same_after_errors or self.job.same)
        return bool(ended.result["sabotaged"])

    # What must hold afterwards

    def _look_at_end(self, ended: Ended, label: str, *, killed: bool = False) -> None:
        if killed and ended.killed:
            return
        good = ended.code == 0 and ended.result["code"] in CODES
        if not good or "Traceback" in ended.err:
            raise TrialError(f"{self.job.name}, {label}: it ended with {_told(ended)}")

    def _reckon(self, copy: Copy, label: str, same: Sequence[str] = ()) -> None:
        """The books balance at once; the same command finishes the job; the outcome is the undisturbed one."""
        try:
            seen = self._look(copy)
            if self._differences(seen, same) or seen["open"] or not self._file_is_whole(copy):
                ended = copy.run(self._argv(copy))
                code = ended.result["code"] if ended.code == 0 else ended.code
                if code not in self.job.codes:
                    raise TrialError(f"the command given again ended with {_told(ended)}")
                seen = self._look(copy)
                if seen["open"]:
                    raise TrialError(f"a run is still {seen['open']}")
                if not self._file_is_whole(copy):
                    raise TrialError("its file is still not there")
                if differences := self._differences(seen, same):
                    raise TrialError("the outcome differs:\n" + "\n".join(differences[:20]))
        except TrialError as error:
            raise TrialError(f"{self.job.name}, {label}: {error}") from error
        finally:
            self._remove_file(copy)

    def _look(self, copy: Copy) -> dict[str, Any]:
        seen = copy.inspect()
        problems = seen["violations"]
        if seen["endowment"] not in self.undisturbed.endowments:
            problems.append(f"value was lost or created: {seen['endowment']}, not {self.undisturbed.endowments[0]}")
        if problems:
            raise TrialError("the books do not balance:\n" + "\n".join(problems[:20]))
        return seen

    def _differences(self, seen: dict[str, Any], same: Sequence[str]) -> list[str]:
        found: list[str] = []
        for part in same or self.job.same:
            expected, actual = self.undisturbed.outcome[part], seen["dump"][part]
            found += [f"{part}: missing {row}" for row in expected if row not in actual]
            found += [f"{part}: unexpected {row}" for row in actual if row not in expected]
        return found

    # Its file

    def _argv(self, copy: Copy) -> list[str]:
        return list(self.job.command(self.scene.remembered, str(self._file(copy))))

    def _file(self, copy: Copy) -> Path:
        return self.lab.folder / f"{Path(copy.name).name}.report"

    def _file_is_whole(self, copy: Copy) -> bool:
        """Say whether the command's file is there; under its name there must never be half a file."""
        if not self.job.writes:
            return True
        path = self._file(copy)
        if not path.exists():
            return False
        text = path.read_text()
        try:
            whole = text.rstrip().endswith("</html>") if self.job.writes == "html" else bool(json.loads(text))
        except ValueError:
            whole = False
        if not whole:
            raise TrialError(f"half a file: {text[-200:]!r}")
        return True

    def _remove_file(self, copy: Copy) -> None:
        if self.job.writes:
            for path in self.lab.folder.glob(f"*{self._file(copy).name}*"):
                path.unlink()

    def _name(self, position: int) -> str:
        names = self.undisturbed.names
        return names[position - 1] if position <= len(names) else "later"


def stage_points(benches: list[Bench]) -> dict[str, list[tuple[Bench, str]]]:
    """Return the moments of each stage of the work, with a job that passes it."""
    found: dict[str, list[tuple[Bench, str]]] = {stage: [] for stage in STAGES}
    for bench, name, when in named_points(benches):
        for stage, pattern in STAGES.items():
            if when == AFTER and re.search(pattern, name):
                found[stage].append((bench, name))
    return found


def named_points(benches: list[Bench]) -> list[tuple[Bench, str, str]]:
    """Return every named moment of these jobs, before and after, where several pass it only with the first of them.

    What never goes well in a job, such as a message with a poisoned user in it, has no after there.
    """
    seen: set[tuple[str, str]] = set()
    found: list[tuple[Bench, str, str]] = []
    for bench in benches:
        for name in bench.undisturbed.points:
            for when in (BEFORE, AFTER):
                if (name, when) not in seen and (when == BEFORE or name in bench.undisturbed.done):
                    seen.add((name, when))
                    found.append((bench, name, when))
    return found


def _told(ended: Ended) -> str:
    code = ended.result["code"] if ended.result else ended.code
    return f"{code}: {ended.out[-300:]}{ended.err[-1500:]}"
