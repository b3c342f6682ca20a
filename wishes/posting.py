"""The set-based writes of wallets and the mana ledger: the only place that changes them in bulk.

Each function returns one SQL write that reads a relation called ``picked``, which the caller
supplies and whose wallets it has locked in the same transaction; nothing here opens one.  The
single-user services of ``wishes.services`` keep the same rules.
"""

from __future__ import annotations

from typing import Final

from wishes.rates import BIGINT_MAX
from wishes.sql import block

#: Columns that ``picked`` must have for a conversion: the wallet as locked, what it is worth, and whether
#: this user is converted at all.  Its rows are in the order of the keys.
CONVERSION_COLUMNS: Final = ("user_id", "green", "blue", "red", "mana", "credit", "valid")


def handled_sql(columns: str) -> str:
    """Return the relation ``handled``: these columns of the valid rows of ``picked``, to join what is updated with.

    The LIMIT, which nothing reaches, keeps PostgreSQL from merging it with the rest: it would then
    carry the whole row of ``picked`` along for each row that is updated, and sort it.
    """
    return f"(SELECT {columns} FROM picked WHERE valid LIMIT {BIGINT_MAX}) AS handled"


def insert_conversion_entries(reference: str, now: str) -> str:
    """Return the INSERT of one ledger entry for each conversion that is worth anything.

    ``reference`` is an SQL expression over ``picked``; ``now`` the SQL of the clock.
    """
    return block(
        """
        INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at)
        SELECT user_id, credit, mana + credit, 'conversion', {reference}, {now}
        FROM picked
        WHERE valid AND credit <> 0
        """,
        reference=reference,
        now=now,
    )


def update_converted_wallets(now: str, within: str) -> str:
    """Return the UPDATE that zeroes the wishes, credits the mana and sets the flag.

    ``within`` is a condition on ``wishes_wallet`` that holds for every user picked: a range of keys,
    so that the wallets are read in one go.
    """
    return block(
        """
        UPDATE wishes_wallet
        SET green = 0,
            blue = 0,
            red = 0,
            mana = wishes_wallet.mana + handled.credit,
            migrated_at = {now},
            updated_at = {now}
        FROM {handled}
        WHERE {within}
          AND wishes_wallet.user_id = handled.user_id
        """,
        handled=handled_sql("user_id, credit"),
        within=within,
        now=now,
    )


def conversion_kept(reference: str) -> dict[str, str]:
    """Return the SQL of whether the tables hold what a conversion wrote for row ``p`` of ``picked``, by what it wrote.

    ``reference`` is that of the entry, over ``p``; ``p.entries`` counts the user's entries before.
    """
    return {
        "entries": _entry_kept(reference, "conversion", amount="p.credit", balance="p.mana + p.credit"),
        "wallets": block(
            """
            EXISTS (
                SELECT 1 FROM wishes_wallet w
                WHERE w.user_id = p.user_id
                  AND CASE WHEN p.valid
                      THEN w.green = 0 AND w.blue = 0 AND w.red = 0 AND w.mana = p.mana + p.credit
                           AND w.migrated_at IS NOT NULL
                      ELSE w.green = p.green AND w.blue = p.blue AND w.red = p.red AND w.mana = p.mana
                           AND w.migrated_at IS NULL
                  END
            )
            """
        ),
    }


def _entry_kept(reference: str, kind: str, *, amount: str, balance: str, more: str = "") -> str:
    return block(
        """
        (SELECT COUNT(*) FROM wishes_manaentry e WHERE e.user_id = p.user_id)
            = p.entries + CASE WHEN p.valid AND {amount} <> 0 THEN 1 ELSE 0 END
            {more}
        AND (
            NOT p.valid OR {amount} = 0 OR EXISTS (
                SELECT 1 FROM wishes_manaentry e
                WHERE e.reference = {reference} AND e.user_id = p.user_id AND e.kind = '{kind}'
                  AND e.amount = {amount} AND e.balance_after = {balance}
            )
        )
        """,
        amount=amount,
        balance=balance,
        reference=reference,
        kind=kind,
        more=more,
    )


def insert_reversal_entries(reference: str, now: str, shortfall: str = "") -> str:
    """Return the INSERT of one ledger entry for each reversal that debits anything.

    ``picked`` has user_id, mana (as locked), debit and valid, and with ``shortfall`` credited.  ``shortfall`` is the
    SQL of what the references begin with of the two entries of mana that was spent already and is written off: it is
    credited and then debited, so that the debits of a reversal are what its conversion credited.
    """
    written_off = block(
        """
        UNION ALL
        SELECT user_id, credited - debit, credited - debit, 'adjustment', {shortfall} || ':written_off', {now}
        FROM picked
        WHERE valid AND debit < credited
        UNION ALL
        SELECT user_id, debit - credited, 0, 'adjustment', {shortfall} || ':debited', {now}
        FROM picked
        WHERE valid AND debit < credited
        """,
        shortfall=shortfall,
        now=now,
    )
    return block(
        """
        INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at)
        SELECT user_id, -debit, mana - debit, 'reversal', {reference}, {now}
        FROM picked
        WHERE valid AND debit <> 0
        {written_off}
        """,
        reference=reference,
        now=now,
        written_off=written_off if shortfall else "",
    )


def update_reversed_wallets(now: str, within: str) -> str:
    """Return the UPDATE that debits the mana, adds the wishes back and clears the flag.

    ``picked`` has user_id, green, blue, red (to add), debit and valid; ``within`` as for a
    conversion.  The wallet guard must be lifted in this transaction (``wishes.guards``).
    """
    return block(
        """
        UPDATE wishes_wallet
        SET green = wishes_wallet.green + handled.green,
            blue = wishes_wallet.blue + handled.blue,
            red = wishes_wallet.red + handled.red,
            mana = wishes_wallet.mana - handled.debit,
            migrated_at = NULL,
            updated_at = {now}
        FROM {handled}
        WHERE {within}
          AND wishes_wallet.user_id = handled.user_id
        """,
        handled=handled_sql("user_id, green, blue, red, debit"),
        within=within,
        now=now,
    )


def reversal_kept(reference: str, *, unflagged: str, shortfall: str = "") -> dict[str, str]:
    """Return the SQL of whether the tables hold what a reversal wrote; see ``conversion_kept``.

    ``unflagged``: SQL over ``p`` of whether the wallet was found without its flag, and left as it is.  ``shortfall``:
    as for the entries, over ``p``.
    """
    more = "+ CASE WHEN p.valid AND p.debit < p.credited THEN 2 ELSE 0 END"
    entries = _entry_kept(
        reference, "reversal", amount="-p.debit", balance="p.mana - p.debit", more=more if shortfall else ""
    )
    if shortfall:
        entries += " AND " + _shortfall_kept(shortfall)
    return {
        "entries": entries,
        "wallets": block(
            """
            EXISTS (
                SELECT 1 FROM wishes_wallet w
                WHERE w.user_id = p.user_id
                  AND CASE WHEN p.valid
                      THEN w.green = p.green AND w.blue = p.blue AND w.red = p.red AND w.mana = p.mana - p.debit
                           AND w.migrated_at IS NULL
                      WHEN {unflagged} THEN w.mana = p.mana AND w.migrated_at IS NULL
                      ELSE w.green = 0 AND w.blue = 0 AND w.red = 0 AND w.mana = p.mana
                           AND w.migrated_at IS NOT NULL
                  END
            )
            """,
            unflagged=unflagged,
        ),
    }


def _shortfall_kept(shortfall: str) -> str:
    return block(
        """
        (
            NOT p.valid OR p.debit = p.credited OR (
                SELECT COUNT(*) FROM wishes_manaentry e
                WHERE e.user_id = p.user_id AND e.kind = 'adjustment'
                  AND (
                      (e.reference = {shortfall} || ':written_off' AND e.amount = p.credited - p.debit)
                      OR (e.reference = {shortfall} || ':debited' AND e.amount = p.debit - p.credited)
                  )
            ) = 2
        )
        """,
        shortfall=shortfall,
    )


#: Columns that ``picked`` must have to open a wallet: what the wallet will hold, whether the user arrives migrated
#: (1 or 0; then the wishes are 0), and with how much mana the ledger of such a user opens.
OPENING_COLUMNS: Final = ("user_id", "green", "blue", "red", "mana", "migrated", "opening")


def insert_opening_wallets(now: str) -> str:
    """Return the INSERT of a wallet for each user who has none yet."""
    return block(
        """
        INSERT INTO wishes_wallet (user_id, green, blue, red, mana, migrated_at, updated_at)
        SELECT user_id, green, blue, red, mana, CASE WHEN migrated = 1 THEN {now} END, {now}
        FROM picked
        ORDER BY user_id
        """,
        now=now,
    )


def update_opening_wallets(now: str) -> str:
    """Return the UPDATE that overwrites wallets that were never used; never one that is migrated."""
    return block(
        """
        UPDATE wishes_wallet
        SET green = picked.green,
            blue = picked.blue,
            red = picked.red,
            mana = picked.mana,
            migrated_at = CASE WHEN picked.migrated = 1 THEN {now} END,
            updated_at = {now}
        FROM picked
        WHERE wishes_wallet.user_id = picked.user_id AND wishes_wallet.migrated_at IS NULL
        """,
        now=now,
    )


def insert_opening_entries(reference: str, now: str) -> str:
    """Return the INSERT of the ledger entry that backs the mana of each user who arrives migrated.

    Mana of the others is left unbacked on purpose: its origin is unknown, and the comparison of
    wallets with their entries must find it.
    """
    return block(
        """
        INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at)
        SELECT user_id, opening, opening, 'opening', {reference}, {now}
        FROM picked
        WHERE migrated = 1 AND opening <> 0
        ORDER BY user_id
        """,
        reference=reference,
        now=now,
    )


def insert_entries_since_opening(reference: str, now: str) -> str:
    """Return the INSERT of what users who arrive migrated earned or spent between their payment and the import."""
    return block(
        """
        INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at)
        SELECT user_id, mana - opening, mana, CASE WHEN mana > opening THEN 'earn' ELSE 'spend' END, {reference}, {now}
        FROM picked
        WHERE migrated = 1 AND mana <> opening
        ORDER BY user_id
        """,
        reference=reference,
        now=now,
    )


def update_corrected_wallets(now: str, migrated_at: str) -> str:
    """Return the UPDATE that puts corrected balances on wallets; the caller records before and after.

    ``picked`` has user_id, green, blue, red and mana, all as they shall be.  ``migrated_at`` is the SQL of the flag as
    it shall be, over ``picked`` and ``wishes_wallet``.
    """
    return block(
        """
        UPDATE wishes_wallet
        SET green = picked.green,
            blue = picked.blue,
            red = picked.red,
            mana = picked.mana,
            migrated_at = {migrated_at},
            updated_at = {now}
        FROM picked
        WHERE wishes_wallet.user_id = picked.user_id
        """,
        migrated_at=migrated_at,
        now=now,
    )
