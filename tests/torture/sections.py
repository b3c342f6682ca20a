"""The sections of ``make torture``: each does one kind of damage so many times and returns its figures in words."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.postgres import Postgres
from tests.torture.lab import Lab

Tell = Callable[[str], None]

#: The names of the sizes, and what they count.
SIZES = {"steps": "steps of the state machine, per database; a fiftieth of it on PostgreSQL"}


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    sections: tuple[str, ...] = ()
    databases: tuple[str, ...] = ("sqlite", "postgres")
    seed: int = 20261123
    steps: int = 500_000


@dataclass(frozen=True)
class Section:
    """One kind of damage: its name in the table, how it is done, and on which databases."""

    what: str
    run: Callable[[str, Postgres | None, Options, Tell], str]
    databases: tuple[str, ...] = ("sqlite", "postgres")


def machine(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Let the state machine do so many steps, in chunks of sequences of 50 with a seed each."""
    wanted = options.steps if database == "sqlite" else options.steps // 50
    done = chunks = 0
    with Lab(server.url() if server else None) as lab:
        name = lab.empty()
        while done < wanted:
            done += lab.zygote.call(
                "tests.torture.children:explore",
                database=name,
                examples=100,
                steps=50,
                seed=options.seed + chunks,
                look_every=10,
                longest=7200,
            )
            chunks += 1
            tell(f"{done:,} of {wanted:,} steps, seeds {options.seed} to {options.seed + chunks - 1}")
    return f"{done:,} steps in sequences of 50, seeds {options.seed} to {options.seed + chunks - 1}: none differed"


SECTIONS = {
    "machine": Section("State machine against a model in plain Python", machine),
}
