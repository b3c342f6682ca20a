-- Keys by which the tables of users can be distributed by user id, for distributed PostgreSQL.
--
--     psql -f scripts/distribute_by_user.sql DATABASE
--
-- Run it by the owner of the tables, on a database without an open run, after "manage.py migrate".  docs/at-scale.md says
-- what it is for, and what has been tried and what has not.  Only the first part is executed; it works on any PostgreSQL.
--
-- Every unique key gets the user's id in front.  What is lost by it: that two different users have the same reference is
-- then refused by the wallet service alone and no longer by the database.

BEGIN;

ALTER TABLE wishes_manaentry
    DROP CONSTRAINT wishes_manaentry_pkey,
    DROP CONSTRAINT wishes_manaentry_reference_key,
    ADD CONSTRAINT wishes_manaentry_pkey PRIMARY KEY (user_id, id),
    ADD CONSTRAINT wishes_manaentry_reference_key UNIQUE (user_id, reference);
CREATE INDEX wishes_manaentry_reference ON wishes_manaentry (reference);

ALTER TABLE wishes_wishentry
    DROP CONSTRAINT wishes_wishentry_pkey,
    DROP CONSTRAINT wishes_wishentry_reference_key,
    ADD CONSTRAINT wishes_wishentry_pkey PRIMARY KEY (user_id, id),
    ADD CONSTRAINT wishes_wishentry_reference_key UNIQUE (user_id, reference);
CREATE INDEX wishes_wishentry_reference ON wishes_wishentry (reference);

ALTER TABLE mana_migration_usermigration
    DROP CONSTRAINT mana_migration_usermigration_pkey,
    ADD CONSTRAINT mana_migration_usermigration_pkey PRIMARY KEY (user_id, id);
CREATE INDEX mana_migration_usermigration_id ON mana_migration_usermigration (id);

COMMIT;

-- The second part, in the words of Citus, has never been run: there was no such cluster.  Take the dashes away on one.
--
-- The users' table is the same on every node, because sessions, permissions and the admin's log refer to it:
--     SELECT create_reference_table('auth_user');
-- Tables of users, side by side on the same nodes:
--     SELECT create_distributed_table('wishes_wallet', 'user_id');
--     SELECT create_distributed_table('wishes_manaentry', 'user_id', colocate_with => 'wishes_wallet');
--     SELECT create_distributed_table('wishes_wishentry', 'user_id', colocate_with => 'wishes_wallet');
--     SELECT create_distributed_table('mana_migration_usermigration', 'user_id', colocate_with => 'wishes_wallet');
-- Runs, batches, events and fixes are few: they stay where they are, on the coordinator.
