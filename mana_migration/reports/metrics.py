"""A run's snapshot in Prometheus' text format; no names, no texts that people wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from mana_migration.domain.pressure import Sign
from mana_migration.domain.snapshot import RunSnapshot

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_PREFIX: Final = "mana_migration"
_LABELS: Final = ("database", "run", "kind")
_COLOURS: Final = ("green", "blue", "red")
_REASONS: Final = (*Sign, "database_lost")
_OUTCOMES: Final = ("migrated", "rolled_back", "skipped", "failed")


def metrics_text(
    seen: RunSnapshot | None, *, statuses: tuple[str, ...], buckets: tuple[float, ...], database: str
) -> bytes:
    """Return the metrics of one database: of its open run, else of its latest.

    Args:
        seen: the run, None where there is none.
        statuses: every status that a run can have; the current one is 1, the others 0.
        buckets: upper bounds, in seconds, of the histogram of batch durations.
        database: the alias, a label of every sample.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_RunCollector(seen, statuses, buckets, database))
    return generate_latest(registry)


class _RunCollector(Collector):
    """Makes the samples of one snapshot; lives for one scrape."""

    def __init__(
        self, seen: RunSnapshot | None, statuses: tuple[str, ...], buckets: tuple[float, ...], database: str
    ) -> None:
        self._seen, self._statuses, self._buckets, self._database = seen, statuses, buckets, database

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        known = GaugeMetricFamily(f"{_PREFIX}_run_known", "1 where this database has a run.", labels=["database"])
        known.add_metric([self._database], float(self._seen is not None))
        yield known
        if self._seen is None:
            return
        seen = self._seen
        yield self._one_hot(seen)
        yield self._gauge("run_users_expected", "Users selected as counted at the start.", seen.progress.expected)
        yield self._by("run_users", "Users by outcome.", "outcome", _OUTCOMES)
        yield self._by("run_wishes", "Wishes converted, or given back by a rollback.", "colour", _COLOURS)
        yield self._gauge("run_mana", "Mana credited, or debited by a rollback.", seen.totals.mana)
        yield self._gauge("run_shortfall_mana", "Mana written off because it was spent already.", seen.totals.shortfall)
        yield self._counts("run_errors", "Failed users by error class.", "error_class", dict(seen.totals.errors))
        yield self._counts("run_skips", "Skipped users by reason.", "reason", dict(seen.totals.skips))
        yield self._gauge("run_users_per_minute", "Users per minute now; 0 while it is stalled.", _now(seen))
        yield self._gauge(
            "run_waiting", "1 while the run waits for the database, or for a wallet.", float(bool(seen.waiting))
        )
        yield self._counts(
            "run_waiting_for",
            "1 for what the run waits for just now, 0 for the others.",
            "reason",
            {reason: int(reason == seen.waiting_for) for reason in _REASONS},
        )
        yield self._gauge("run_stalled", "1 while an open run is stalled.", float(seen.progress.stalled))
        yield self._gauge("run_seconds_since_progress", "Seconds since the last finished batch.", _idle(seen))
        checked = seen.batch_check
        yield self._gauge(
            "run_batches_verified",
            "Batches done whose mana is the worth of their wishes.",
            checked.verified if checked else None,
        )
        yield self._gauge(
            "run_value_conserved",
            "1 while all batches conserved value, 0 where one did not.",
            checked.conserved if checked else None,
        )
        yield self._durations(seen)

    def _labels(self) -> list[str]:
        seen = self._seen
        return [] if seen is None else [self._database, str(seen.run), seen.kind]

    def _gauge(self, name: str, text: str, value: float | None) -> Metric:
        family = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=_LABELS)
        if value is not None:
            family.add_metric(self._labels(), float(value))
        return family

    def _by(self, name: str, text: str, label: str, figures: tuple[str, ...]) -> Metric:
        totals = self._seen.totals if self._seen else None
        return self._counts(name, text, label, {figure: getattr(totals, figure) for figure in figures})

    def _counts(self, name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
        family = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=[*_LABELS, label])
        for key, count in sorted(counts.items()):
            family.add_metric([*self._labels(), key], float(count))
        return family

    def _one_hot(self, seen: RunSnapshot) -> Metric:
        counts = {status: int(status == seen.status) for status in self._statuses}
        return self._counts("run_status", "1 for the run's status, 0 for the others.", "status", counts)

    def _durations(self, seen: RunSnapshot) -> Metric:
        counts, buckets, reached = dict(seen.durations), [], 0
        for bound in (*map(str, self._buckets), "+Inf"):
            reached += counts.get(bound, 0)
            buckets.append((bound, float(reached)))
        family = HistogramMetricFamily(
            f"{_PREFIX}_batch_duration_seconds", "Seconds that a batch took.", labels=_LABELS
        )
        family.add_metric(self._labels(), buckets, sum_value=seen.batch_seconds)
        return family


def _now(seen: RunSnapshot) -> float:
    return seen.progress.rate_now or 0.0


def _idle(seen: RunSnapshot) -> float | None:
    """Return the seconds since the last progress, of a closed run too; None where there was none."""
    if seen.last_progress is None:
        return seen.progress.idle
    return max(0.0, (seen.taken_at - seen.last_progress).total_seconds())
