"""Which users a query looks at, as it is written: where keys have no order of their texts, a run has no range."""

from mana_migration.engine.integrity.scope import Scope

OF_RUN = (
    "SELECT s.user_id FROM mana_migration_usermigration s WHERE (s.run_id = %(run)s OR s.reversal_run_id = %(run)s)"
)


def test_the_users_of_a_run_are_looked_for_in_its_range_where_that_is_known() -> None:
    assert Scope(run=3).sql("x") == f"(x IN ({OF_RUN}))"
    assert Scope(run=3, first="1", last="9").sql("x") == (
        f"(x IN ({OF_RUN} AND s.user_id BETWEEN %(first)s AND %(last)s) AND x BETWEEN %(first)s AND %(last)s)"
    )


def test_a_scope_is_narrowed_by_each_of_its_parts() -> None:
    assert Scope().sql("x") == "1 = 1"
    assert Scope(users=("5", "6")).sql("x") == "(x IN (%(user_0)s, %(user_1)s))"
    assert Scope(after="1", until="5").sql("x") == "(x > %(after)s AND x <= %(until)s)"
    assert Scope(first="1").sql("x") == Scope(last="5").sql("x") == "1 = 1"
