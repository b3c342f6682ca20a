"""The sections of ``make torture``: each does one kind of damage so many times and returns its figures in words."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.postgres import Postgres
from tests.torture.jobs import BY_NAME, JOBS, SHARED
from tests.torture.lab import Copy, Lab
from tests.torture.points import ERRORS
from tests.torture.servers import stop_server_during
from tests.torture.trials import Bench, named_points

Tell = Callable[[str], None]

PROJECT = Path(__file__).resolve().parent.parent.parent
HOURS = 6 * 3600
PER_SEQUENCE = 50
#: The jobs whose server is stopped in mid-work.
STOPPED = ("migrate", "rollback", "auto-fix", "import", "breaker")

#: Statements after each so many of which it is told how far it is.
TELL_EVERY = 25

#: The names of the sizes, and what they count.
SIZES = {
    "steps": "steps of the state machine; a fiftieth of them on PostgreSQL",
    "workloads": "random workloads that the oracle looks at; a tenth of them on PostgreSQL",
    "kills": "SIGKILLs of a command on each database",
    "stops": "immediate stops of PostgreSQL",
    "every": "let every so-manieth statement of each command fail",
    "first": "begin with this statement of each command, to go on after an interruption",
    "records": "users that four roll back at once",
    "users": "users migrated and rolled back",
    "operations": "operations of the bank test",
    "rounds": "rounds of all property tests, each with new examples",
}


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    sections: tuple[str, ...] = ()
    databases: tuple[str, ...] = ("sqlite", "postgres")
    seed: int = 20261123
    steps: int = 500_000
    workloads: int = 10_000
    kills: int = 1_000
    stops: int = 200
    every: int = 1
    first: int = 1
    records: int = 2_000
    users: int = 1_000_000
    operations: int = 100_000
    rounds: int = 20
    commands: tuple[str, ...] = tuple(BY_NAME)
    """Names of the commands whose statements fail."""


@dataclass(frozen=True)
class Section:
    """One kind of damage: its name in the table, how it is done, and on which databases."""

    what: str
    run: Callable[[str, Postgres | None, Options, Tell], str]
    databases: tuple[str, ...] = ("sqlite", "postgres")


def url(server: Postgres | None) -> str | None:
    """Return the address for a lab; None is SQLite."""
    return server.url() if server else None


# --- Anything, in any order -------------------------------------------------------------------------------------------


def machine(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Let the state machine do so many steps, in chunks of sequences of 50 with a seed each."""
    wanted = options.steps if database == "sqlite" else options.steps // 50
    done = explored(server, options.seed, tell, wanted, "steps", steps=PER_SEQUENCE, look_every=10)
    return f"{done['steps']:,} steps in {done['sequences']:,} sequences, seeds from {options.seed}: none differed"


def oracle(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Ask the oracle about so many random workloads."""
    wanted = options.workloads if database == "sqlite" else options.workloads // 10
    done = explored(server, options.seed + 500_000, tell, wanted, "sequences", steps=12, look_every=1_000)
    return f"{done['sequences']:,} workloads of {done['steps']:,} steps: no false alarm"


def explored(server: Postgres | None, seed: int, tell: Tell, wanted: int, what: str, **how: int) -> Counter[str]:
    """Let the machine explore, chunk after chunk, until it has done enough of something."""
    done: Counter[str] = Counter()
    chunks = 0
    with Lab(url(server)) as lab:
        name = lab.empty()
        while done[what] < wanted:
            done += lab.zygote.call(
                "tests.torture.children:explore",
                database=name, examples=40, seed=seed + chunks, longest=HOURS, **how,
            )  # fmt: skip
            chunks += 1
            tell(f"{done['steps']:,} steps, {done['sequences']:,} sequences, seeds {seed} to {seed + chunks - 1}")
    return done


def examples(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Run the property tests with new examples, which "make test" never draws; a failure prints how to repeat it."""
    tests = PROJECT / "tests"
    files = [path for path in sorted(tests.rglob("test_*.py")) if "@given(" in path.read_text()]
    for number in range(options.rounds):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--random", "--db", database, *files],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(done.stdout[-6000:])
        tell(f"{number + 1:,} of {options.rounds:,} rounds")
    return f"property tests of {len(files):,} files, {options.rounds:,} times, each with new examples"


# --- Ends in mid-work -------------------------------------------------------------------------------------------------


def kills(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Kill the commands before and after every named moment, then at random ones until there were enough kills."""
    dice = random.Random(options.seed)
    with Lab(url(server)) as lab:
        benches = [Bench(lab, job) for job in JOBS]
        points = named_points(benches)
        for number, (bench, name, when) in enumerate(points, 1):
            bench.kill_at(name, when)
            if number % 25 == 0:
                tell(f"{number:,} of {len(points):,} kills at named moments")
        landed, late = len(points), 0
        while landed < options.kills:
            hit = dice.choice(benches).kill_anywhere(dice)
            landed, late = landed + hit, late + (not hit)
            if landed % 25 == 0:
                tell(f"{landed:,} of {options.kills:,} kills, {late:,} came too late")
    return (
        f"{landed:,} kills of {len(benches)} commands: before and after each of {len(points) // 2:,} named moments, "
        f"and {landed - len(points):,} at random moments ({late:,} more came when the command had ended)"
    )


def stops(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Stop the server in the middle of a command, again and again."""
    assert server
    dice = random.Random(options.seed)
    noticed: Counter[str] = Counter()
    with Lab(server.url(), crashes=True) as lab:
        benches = [Bench(lab, BY_NAME[name]) for name in STOPPED]
        for number in range(options.stops):
            bench = benches[number % len(benches)]
            noticed[bench.job.name] += stop_server_during(server, bench, dice)
            if number % 10 == 9:
                tell(f"{number + 1:,} of {options.stops:,} stops, {noticed.total():,} of them noticed by the command")
    return (
        f"{options.stops:,} immediate stops during {', '.join(STOPPED)}; the command was at work in {noticed.total()}"
    )


def two_processes(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Kill either process of a command that has two, and let statements of the first fail."""
    dice = random.Random(options.seed)
    landed = came = trials = 0
    with Lab(url(server)) as lab:
        benches = [Bench(lab, job) for job in SHARED]
        wanted = options.kills // 10
        while landed < wanted:
            bench = dice.choice(benches)
            first = dice.random() < 0.5
            late = dice.uniform(0, bench.undisturbed.seconds)
            landed += bench.kill_anywhere(dice) if first else bench.kill_helper_after(late)
            if landed % 25 == 0:
                tell(f"{landed:,} of {wanted:,} kills")
        for bench in benches:
            for position in range(options.first, len(bench.undisturbed.names) + 1, 10 * options.every):
                came += sum(bench.fail_at(position, error) for error in ERRORS["postgresql"])
                trials += len(ERRORS["postgresql"])
            tell(f"{bench.job.name}: {trials:,} trials of statements so far")
    return f"{landed:,} kills of either process of two, {trials:,} statements that fail, {came:,} of which were reached"


def statements(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Let every statement and commit of every command fail, with each error."""
    vendor = "sqlite" if server is None else "postgresql"
    positions = trials = came = 0
    with Lab(url(server)) as lab:
        for name in options.commands:
            bench = Bench(lab, BY_NAME[name])
            chosen = range(options.first, len(bench.undisturbed.names) + 1, options.every)
            for position in chosen:
                came += sum(bench.fail_at(position, error) for error in ERRORS[vendor])
                if position % TELL_EVERY == 0:
                    tell(f"{name}: position {position:,} of {chosen.stop - 1:,}")
            positions, trials = positions + len(chosen), trials + len(chosen) * len(ERRORS[vendor])
            tell(f"{name}: {len(chosen):,} positions; {trials:,} trials so far, {came:,} came to their statement")
    share = "every" if options.every == 1 else f"one in {options.every} of the"
    if options.first > 1:
        share = f"from position {options.first:,} on {share}"
    return (
        f"{share} statement or commit of {len(options.commands)} of {len(JOBS)} commands: "
        f"{positions:,} positions x {len(ERRORS[vendor])} errors "
        f"= {trials:,} trials, {came:,} of which came to a statement (the rest are steps of files)"
    )


# --- Twice, and there and back ----------------------------------------------------------------------------------------


def double(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Let four roll the same users back, and whole runs meet."""
    with Lab(url(server)) as lab:
        found = lab.zygote.call(
            "tests.torture.doubles:run",
            database=lab.empty(), records=options.records, seed=options.seed, rounds=3, longest=HOURS,
        )  # fmt: skip
    if found["problems"]:
        raise AssertionError("; ".join(found["problems"]))
    by = ", ".join(f"{way} {count:,}" for way, count in found["by"].items())
    return (
        f"{options.records:,} users x 4 rollbacks at once: {found['succeeded']:,} succeeded ({by}), "
        f"{found['refused']:,} were refused; 3 rounds of whole runs at once"
    )


def round_trip(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Migrate many users, check them, roll them back, and compare every wallet."""
    with Lab(url(server)) as lab:
        copy = Copy(lab, lab.empty(), {})
        lab.zygote.call("tests.torture.roundtrip:populate", database=copy.name, users=options.users, longest=HOURS)
        tell(f"{options.users:,} users are there")

        def wallets() -> dict[str, str]:
            seen: dict[str, str] = lab.zygote.call("tests.torture.books:wallets", database=copy.name, longest=HOURS)
            return seen

        def run(*argv: str) -> float:
            begun = time.monotonic()
            ended = copy.run(argv, longest=HOURS)
            if ended.code or ended.result["code"]:
                raise AssertionError(f"{argv[0]} ended with {ended.code} {ended.result}: {ended.err[-500:]}")
            seconds = time.monotonic() - begun
            tell(f"{' '.join(argv)}: {seconds:,.0f} s")
            return seconds

        before = wallets()
        there = run("migrate_users", "--no-input", "--delay", "0", "--batch-size", "2000")
        between = wallets()
        back = run("rollback_migration", "--all", "--no-input", "--batch-size", "2000")
        after = wallets()
        found = lab.zygote.call("tests.torture.roundtrip:look", database=copy.name, longest=HOURS)
    wanted = {**before, "migrated": str(options.users)}
    if int(before["migrated"]) or between["migrated"] != wanted["migrated"] or between["sha256"] == before["sha256"]:
        raise AssertionError(f"not everybody was migrated: {between}")
    if after != before or found["violations"]:
        raise AssertionError(f"not what it was: {before}, {after}, {found['violations']}")
    return (
        f"{options.users:,} users there in {there:,.0f} s and back in {back:,.0f} s; every wallet as before, "
        f"SHA-256 {before['sha256'][:16]}…; every rule holds"
    )


# --- The site in use --------------------------------------------------------------------------------------------------


def bank(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Let eight processes use the wallets while runs come and go."""
    return "; ".join(_bank(options, workers) for workers in (1, 2))


def _bank(options: Options, workers: int) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.bank", "--operations", str(options.operations)),
            *("--seed", str(options.seed), "--workers", str(workers)),
        ],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
        capture_output=True,
        text=True,
        check=False,
    )
    outcome: dict[str, Any] = json.loads(done.stdout)
    if not outcome["ok"]:
        raise AssertionError(json.dumps(outcome))
    counts, commands = outcome["counts"], sum(outcome["commands"].values())
    return (
        f"{outcome['operations']:,} operations of 8 processes on 1,000 users during {commands} runs of {workers} "
        f"process{'es' * (workers > 1)} each, "
        f"{outcome['snapshots']:,} looks at all rules in one snapshot, {counts['read all']:,} sums of all wallets: "
        "nothing lost, nothing paid twice"
    )


def interleavings(database: str, server: Postgres | None, options: Options, tell: Tell) -> str:
    """Walk through every order of the steps of a migration, a spend and a rollback."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:randomly", "--db", "postgres", "--long", "-q"),
            *("tests/journeys/test_interleavings.py", "tests/journeys/test_interleavings_of_clients.py"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stdout[-3000:])
    last = done.stdout.splitlines()[-1]
    return f"4,200 of 4,200 orders, with users not migrated and migrated before, and all orders of pairs: {last}"


POSTGRES = ("postgres",)

SECTIONS = {
    "bank": Section("Bank test", bank, POSTGRES),
    "interleavings": Section("Orders of steps", interleavings, POSTGRES),
    "kills": Section("SIGKILL of the client", kills),
    "stops": Section("Immediate stop of the server", stops, POSTGRES),
    "statements": Section("Every statement fails", statements),
    "two-processes": Section("The same with --workers 2", two_processes, POSTGRES),
    "double": Section("The same thing by several at once", double, POSTGRES),
    "round-trip": Section("There and back", round_trip),
    "oracle": Section("Oracle on random workloads", oracle),
    "examples": Section("Property tests with new examples", examples),
    "machine": Section("State machine against a model in plain Python", machine),
}
