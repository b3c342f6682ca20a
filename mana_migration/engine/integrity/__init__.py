"""The integrity checks as SQL: few scans that count and sum, and one query a check that returns the offending rows.

# Note [Count first, list later]
A healthy database of a hundred million users has no findings, so what it costs is the counting:
one scan over the wallets, one over wallets and ledger together, one over the records, one over
records and ledger together.  Each is the statement that one would write by hand.  Only a check that
found something is asked again for its rows, range of users by range of users, so that neither memory
nor a cursor has to hold them (a server-side cursor would be unsafe behind PgBouncer).
"""
