"""The conditions on one wallet where rows cannot tell: up to where the shortcuts go."""

import pytest

from mana_migration.engine.integrity.wallets import WalletTerms, condition, overflow_sql
from wishes.rates import Rates

#: A quarter of BIGINT for each colour's worth and for the mana: together they cannot be beyond it.
SMALL = (
    "w.green <= 230584300921369395 AND w.blue <= 23058430092136939 "
    "AND w.red <= 2305843009213693 AND w.mana <= 2305843009213693951"
)


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_amounts_up_to_a_quarter_of_bigint_cannot_overflow(vendor: str) -> None:
    assert overflow_sql(vendor, Rates()).startswith(f"CASE WHEN {SMALL} THEN 1 = 0 ELSE ")
    assert f"WHEN {SMALL} THEN " in condition("large_conversion", vendor, WalletTerms(Rates(), large=5))


def test_exact_arithmetic_is_asked_of_postgresql_alone() -> None:
    terms = WalletTerms(Rates(), large=5)
    exact = "ELSE w.green::numeric * 10 + w.blue::numeric * 100 + w.red::numeric * 1000 > 5 END"
    assert condition("large_conversion", "postgresql", terms).endswith(exact)
    assert condition("large_conversion", "sqlite", terms).endswith(exact.replace("::numeric", ""))
    assert (
        "GREATEST(w.green, 0)::numeric * 10 + GREATEST(w.blue, 0)::numeric * 100 + "
        "GREATEST(w.red, 0)::numeric * 1000 + GREATEST(w.mana, 0)"
    ) in overflow_sql("postgresql", Rates())
    assert "MAX(w.green, 0) * 10 + MAX(w.blue, 0) * 100 + MAX(w.red, 0) * 1000 + MAX(w.mana, 0)" in overflow_sql(
        "sqlite", Rates()
    )
