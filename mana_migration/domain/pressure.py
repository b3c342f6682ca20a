"""How much load a database is under, judged from a few figures and what is usual for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

#: Seconds of replication lag above which a standby is behind (gh-ost's default).
LAG_SOFT, LAG_HARD = 1.5, 10.0

#: Sessions waiting for a lock, the run's own not counted.
LOCKS_SOFT, LOCKS_HARD = 5, 20

#: Active sessions above the usual number: the factor and the least difference that count.
SESSIONS_SOFT, SESSIONS_HARD, SESSIONS_LEAST = 2.0, 4.0, 8

#: Batch time above the usual: factors, and the seconds below which no batch is slow.
BATCH_SOFT, BATCH_HARD, BATCH_LEAST = 5.0, 20.0, 0.5

#: What is said where a run waits for a wallet: the reason, and the one sentence for all who ask.
HELD_WALLET: Final = "another session holds a wallet"
HELD_WALLET_IN_WORDS: Final = "waiting for a wallet that another session holds"

#: Weight of the newest figure in what is usual.
SMOOTHING: Final = 0.1


class Pressure(enum.IntEnum):
    """What a sign asks for."""

    NONE = 0
    """No load: continue."""
    SOFT = 1
    """Slow down: wait as long as the batch took."""
    HARD = 2
    """Hold until it has passed."""


class Sign(enum.StrEnum):
    """What shows that a database is under load; the values are labels of a metric."""

    REPLICATION_LAG = "replication_lag"
    WAITING_LOCKS = "waiting_locks"
    ACTIVE_SESSIONS = "active_sessions"
    BATCH_TIME = "batch_time"
    ARCHIVING = "archiving"
    HELD_WALLETS = "held_wallets"
    """There is no load, but another session holds a wallet and all that is left to do waits for it."""


class Judgement(NamedTuple):
    """What a sign asks for, and the sentence that explains it."""

    pressure: Pressure
    sign: Sign
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """One poll of the database: seconds of replication lag, sessions waiting and active, whether archiving fails."""

    replication_lag: float = 0.0
    waiting_locks: int = 0
    active_sessions: int = 0
    archiving_fails: bool = False


@dataclass(slots=True)
class Usual:
    """What is usual for this database, learnt while it is healthy."""

    active_sessions: float | None = None
    batch_seconds: float | None = None

    def learn(self, health: Health, batch_seconds: float) -> None:
        """Take healthy figures into account."""
        self.active_sessions = _smooth(self.active_sessions, float(health.active_sessions))
        self.batch_seconds = _smooth(self.batch_seconds, batch_seconds)


def _smooth(usual: float | None, new: float) -> float:
    return new if usual is None else usual + SMOOTHING * (new - usual)


def _level(value: float, soft: float, hard: float) -> Pressure:
    if value > hard:
        return Pressure.HARD
    return Pressure.SOFT if value > soft else Pressure.NONE


def _limit(value: float, soft: float, hard: float) -> float:
    """Return the limit that a value has passed: so that a reader sees when it will be over."""
    return hard if value > hard else soft


def in_words(pressure: Pressure, reason: str) -> str:
    """Say what is done about a pressure: the one sentence for the terminal, the monitor, the pages and the events."""
    if pressure is Pressure.NONE:
        return "the database has recovered: resuming"
    if pressure is Pressure.SOFT:
        return f"going at half the pace: {reason}"
    return f"waiting while the database is under load: {reason}"


def judge(health: Health, usual: Usual, batch_seconds: float) -> Judgement:
    """Return what the worst sign asks for, which sign it is, and the sentence that explains it with value and limit."""
    signs = [
        Judgement(
            _level(health.replication_lag, LAG_SOFT, LAG_HARD),
            Sign.REPLICATION_LAG,
            f"a standby is {health.replication_lag:.1f} s behind, "
            f"more than {_limit(health.replication_lag, LAG_SOFT, LAG_HARD):g} s",
        ),
        Judgement(
            _level(health.waiting_locks, LOCKS_SOFT, LOCKS_HARD),
            Sign.WAITING_LOCKS,
            f"{health.waiting_locks} sessions wait for locks, "
            f"more than {_limit(health.waiting_locks, LOCKS_SOFT, LOCKS_HARD):g}",
        ),
        Judgement(
            Pressure.SOFT if health.archiving_fails else Pressure.NONE,
            Sign.ARCHIVING,
            "the archive_command of the server fails",
        ),
    ]
    if usual.active_sessions is not None and health.active_sessions >= usual.active_sessions + SESSIONS_LEAST:
        signs.append(
            Judgement(
                _level(
                    health.active_sessions, SESSIONS_SOFT * usual.active_sessions, SESSIONS_HARD * usual.active_sessions
                ),
                Sign.ACTIVE_SESSIONS,
                f"{health.active_sessions} sessions are at work, usual are {usual.active_sessions:.0f}",
            )
        )
    if usual.batch_seconds is not None and batch_seconds > BATCH_LEAST:
        signs.append(
            Judgement(
                _level(batch_seconds, BATCH_SOFT * usual.batch_seconds, BATCH_HARD * usual.batch_seconds),
                Sign.BATCH_TIME,
                f"a batch took {batch_seconds:.2f} s, usual is {usual.batch_seconds:.2f} s",
            )
        )
    return max(signs, key=lambda judgement: judgement.pressure)
