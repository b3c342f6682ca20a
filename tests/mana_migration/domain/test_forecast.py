"""What a dry run promises, and the digest that binds it."""

from __future__ import annotations

from dataclasses import replace

from mana_migration.domain.forecast import Finding, Forecast, digest
from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.domain.results import Totals

TOLD = Forecast(
    options=MigrationOptions(limit=5, controls=Controls(batch_size=7)),
    rates={"green": 10, "blue": 100, "red": 1000},
    totals=Totals(selected=5, migrated=4, failed=1, green=2, blue=3, red=2**62, mana=2**72),
    findings=(Finding("overflow", "error", 0), Finding("large_conversion", "warning", 2)),
    largest=(),
    blocked="",
    expected_seconds=1.0,
    rate=5.0,
    rate_source="assumed",
    seconds=0.1,
)


def test_the_promise_holds_options_rates_findings_users_and_sums() -> None:
    promise = TOLD.promise()
    assert promise["options"]["limit"] == 5
    assert promise["controls"]["batch_size"] == 7
    assert promise["findings"] == {"overflow": 0}  # warnings block nothing and bind nothing
    assert promise["users"] == {"selected": 5, "migrated": 4, "skipped": 0, "failed": 1}
    assert (promise["wishes"]["red"], promise["mana"]) == (2**62, 2**72)


def test_the_digest_is_that_of_the_content_and_not_of_its_order() -> None:
    promise = TOLD.promise()
    assert digest(promise) == digest(dict(reversed(promise.items())))
    assert len(digest(promise)) == 64


def test_anything_that_binds_changes_the_digest() -> None:
    digests = {
        digest(changed.promise())
        for changed in (
            TOLD,
            replace(TOLD, options=MigrationOptions(limit=6)),
            replace(TOLD, rates={**TOLD.rates, "red": 1001}),
            replace(TOLD, totals=Totals(selected=5, migrated=4, failed=1, green=2, blue=3, red=2**62, mana=2**72 + 1)),
            replace(TOLD, findings=(Finding("overflow", "error", 1),)),
        )
    }
    assert len(digests) == 5


def test_what_the_look_took_does_not_bind() -> None:
    assert digest(replace(TOLD, seconds=9.0, expected_seconds=7.0, rate=1.0).promise()) == digest(TOLD.promise())
