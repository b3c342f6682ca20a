"""What explains one user's numbers, and how a user is found."""

import pytest

from mana_migration.selectors import explanation
from mana_migration.selectors.explanation import Arithmetic, explain, find
from mana_migration.selectors.user_list import Standing
from mana_migration.states import RunKind, UserStatus
from tests.mana_migration.history import make_run
from tests.mana_migration.running import migrate, people, roll_back
from tests.mana_migration.stories import Village
from wishes import services
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db


@pytest.fixture
def village() -> Village:
    """Return a completed run and a rollback."""
    return Village()


def explained(user: object) -> explanation.Explanation:
    """Explain a user who is there."""
    found = explain(user.pk, using="default")  # type: ignore[attr-defined]
    assert found is not None
    return found


def test_nobody_is_explained_where_nobody_is() -> None:
    assert explain(4711, using="default") is None


def test_arithmetic_is_exact_whatever_the_size() -> None:
    wallet = Wallet(green=2**63 - 1, blue=-(2**63), red=7)
    sum_ = Arithmetic.of(wallet, {"green": 10**9, "blue": 3, "red": 1})
    assert [term.mana for term in sum_.terms] == [(2**63 - 1) * 10**9, -(2**63) * 3, 7]
    assert sum_.mana == (2**63 - 1) * 10**9 - 2**63 * 3 + 7


def test_a_conversion_has_its_terms_at_the_runs_own_rates(village: Village) -> None:
    village.run.rates = {"green": 1, "blue": 2, "red": 3}
    village.run.save()
    user = village.migrated("anna")
    found = explained(user)
    assert found.live is not None
    assert [(term.wishes, term.rate) for term in found.live.arithmetic.terms] == [(3, 1), (2, 2), (1, 3)]
    assert not found.live.adds_up  # the record says 1230
    assert found.live.entry is not None
    assert found.live.entry.amount == 1230


@pytest.mark.parametrize("story", ["pending", "migrated", "failed", "skipped", "rolled_back", "no_wallet"])
def test_the_standing_is_that_of_the_list(story: str, village: Village) -> None:
    assert explained(getattr(village, story)("anna")).standing == Standing(story)


def test_a_user_whom_a_rollback_left_alone_is_migrated_with_both_stories(village: Village) -> None:
    found = explained(village.kept("anna"))
    assert found.standing == Standing.MIGRATED
    assert [episode.is_rollback for episode in found.episodes] == [True, False]


def test_a_reversal_has_both_entries(village: Village) -> None:
    [episode] = explained(village.rolled_back("anna")).episodes
    assert episode.entry is not None
    assert episode.reversal_entry is not None
    assert episode.entry.amount == -episode.reversal_entry.amount == 1230


def test_what_a_rollback_wrote_off_is_part_of_it_on_the_timeline() -> None:
    [key] = people(1)
    migrate()
    services.spend_mana(key, 1000, reference="shop:1")
    roll_back("--all", "--on-shortfall", "write-off")
    found = explain(key, using="default")
    assert found is not None
    assert [moment.kind for moment in found.timeline] == ["rolled_back", "entry", "converted"]
    assert len(found.entries) == 5  # the pair that books the shortfall is in the ledger all the same


def test_a_user_of_the_old_system_has_an_opening_entry(village: Village) -> None:
    village.run.kind = RunKind.IMPORT
    village.run.save()
    user = village.pending("anna")
    village.record(user, UserStatus.MIGRATED, green=0, blue=0, red=0)
    ManaEntry.objects.create(user=user, amount=50, balance_after=50, kind="opening", reference=f"opening:{user.pk}")
    [episode] = explained(user).episodes
    assert episode.is_import
    assert episode.entry is not None
    assert episode.entry.kind == "opening"
    assert episode.adds_up


def test_the_ledger_agrees_or_it_does_not(village: Village) -> None:
    user = village.migrated("anna", spent=30)
    assert explained(user).ledger_agrees
    Wallet.objects.filter(pk=user.pk).update(mana=1)
    assert not explained(user).ledger_agrees
    assert explained(village.no_wallet("bert")).ledger_agrees


def test_entries_of_long_ago_are_found_beside_the_latest(village: Village, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation, "ENTRIES_SHOWN", 2)
    user = village.migrated("anna")
    for number in range(3):
        ManaEntry.objects.create(
            user=user, amount=1, balance_after=1231 + number, kind="earn", reference=f"earn:{number}"
        )
    found = explained(user)
    assert [entry.balance_after for entry in found.entries] == [1233, 1232]
    assert found.more_entries
    assert found.live is not None
    assert found.live.entry is not None


def test_another_run_of_the_same_user_is_another_story(village: Village) -> None:
    user = village.rolled_back("anna")
    village.run = make_run()
    village.record(user, UserStatus.FAILED, error_class="negative_balance")
    found = explained(user)
    assert [episode.record.status for episode in found.episodes] == [UserStatus.FAILED, UserStatus.ROLLED_BACK]
    assert found.standing == Standing.FAILED
    assert found.live is None


def test_one_text_can_fit_in_three_ways(village: Village) -> None:
    record_of = village.failed("dora")
    record = village.run.records.get()
    named = village.pending(str(record.pk))
    ways = {match.how: match.user_pk for match in find(str(record.pk), using="default")}
    assert ways["record"] == str(record_of.pk)
    assert ways["username"] == str(named.pk)
    for how, user in (("username", named), ("record", record_of)):
        assert [match.user_pk for match in find(f"{how}:{record.pk}", using="default")] == [str(user.pk)]


@pytest.mark.parametrize(
    "text",
    ["", "  ", "pk:", "record:", "username:", "nobody", "pk:abc", "record:-1", "x\0y", "\u0661", "001", "1_0", "+1"],
)
def test_what_fits_nobody_finds_nobody(text: str, village: Village) -> None:
    village.failed("dora")
    assert find(text, using="default") == []


def test_a_name_with_a_colon_is_found(village: Village) -> None:
    user = village.pending("pk:odd:name")
    other = village.pending("team:blue")
    assert [match.user_pk for match in find("team:blue", using="default")] == [str(other.pk)]
    assert [match.user_pk for match in find("username:pk:odd:name", using="default")] == [str(user.pk)]
