-- The four database roles of a site that migrates, for PostgreSQL 15 and later.
--
--     psql -f scripts/database_roles.sql DATABASE
--     PGOPTIONS="-c mana.app=site -c mana.migrator=mover" psql -f scripts/database_roles.sql DATABASE   (other names)
--
-- Run by a superuser, or by a role that may create roles and owns the tables, after "manage.py migrate" and again after
-- each upgrade; running it twice changes nothing.  The roles are made without a password and without the right to log
-- in: ALTER ROLE mana_app LOGIN PASSWORD '...';
--
--   mana_owner     owns the tables: schema changes ("manage.py migrate") and nothing in daily life
--   mana_app       the live site and its staff pages: wallets are opened and changed, entries added, none is ever changed;
--                  it may not reverse a conversion, so rollbacks of the staff pages need a worker with the migrator's role
--   mana_migrator  the commands: import_balances, migrate_users, rollback_migration, validate_migration, work_migration
--   mana_auditor   reads wallets, ledgers, records and the keys of users, and changes nothing: validate_migration and
--                  monitor_migration
--
-- Only the owner can switch a guard off, and only the migrator can announce the reversal that one lets through; a
-- superuser can get around all of them.

BEGIN;

DO $roles$
DECLARE
    owner    text := COALESCE(NULLIF(current_setting('mana.owner', true), ''), 'mana_owner');
    app      text := COALESCE(NULLIF(current_setting('mana.app', true), ''), 'mana_app');
    migrator text := COALESCE(NULLIF(current_setting('mana.migrator', true), ''), 'mana_migrator');
    auditor  text := COALESCE(NULLIF(current_setting('mana.auditor', true), ''), 'mana_auditor');
    users    text := (SELECT confrelid::regclass::text FROM pg_constraint
                       WHERE conrelid = 'wishes_wallet'::regclass AND contype = 'f' LIMIT 1);
    users_key text := (SELECT quote_ident(attname) FROM pg_constraint c
                        JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = c.confkey[1]
                       WHERE conrelid = 'wishes_wallet'::regclass AND contype = 'f' LIMIT 1);
    role     text;
    item     record;
BEGIN
    FOREACH role IN ARRAY ARRAY[owner, app, migrator, auditor] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    END LOOP;
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO %I', current_schema(), owner);

    -- From nothing: what was granted too much is taken away.
    FOR item IN SELECT tablename AS name FROM pg_tables WHERE schemaname = current_schema() LOOP
        EXECUTE format('ALTER TABLE %I OWNER TO %I', item.name, owner);
        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC, %I, %I, %I', item.name, app, migrator, auditor);
        IF item.name LIKE 'wishes\_%' OR item.name LIKE 'mana\_migration\_%' THEN
            EXECUTE format('GRANT SELECT ON %I TO %I, %I, %I', item.name, app, migrator, auditor);
        ELSIF item.name = 'django_migrations' THEN
            EXECUTE format('GRANT SELECT ON %I TO %I, %I, %I', item.name, app, migrator, auditor);
        ELSE
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO %I', item.name, app);
        END IF;
    END LOOP;
    FOR item IN SELECT oid::regprocedure AS name FROM pg_proc
                 WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'wishes\_refuse%' LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %I', item.name, owner);
    END LOOP;

    -- The economy: wallets change, entries are only ever added.
    EXECUTE format('GRANT INSERT, UPDATE ON wishes_wallet TO %I, %I', app, migrator);
    EXECUTE format('GRANT INSERT ON wishes_manaentry, wishes_wishentry TO %I, %I', app, migrator);

    -- A role that may write here may lift the guard of migrated wallets: see Note [Who may reverse] in wishes/guards.py.
    EXECUTE format('GRANT INSERT ON wishes_guard TO %I', migrator);

    -- The migration; the site's staff pages ask for work, and convert on touch records it.
    EXECUTE format('GRANT SELECT, INSERT ON %s TO %I', users, migrator);
    EXECUTE format('GRANT SELECT (%s) ON %s TO %I', users_key, users, auditor);  -- which users have no wallet
    EXECUTE format('GRANT INSERT, UPDATE ON mana_migration_migrationrun, mana_migration_migrationbatch, '
                   'mana_migration_usermigration TO %I, %I', app, migrator);
    EXECUTE format('GRANT INSERT ON mana_migration_runevent TO %I, %I', app, migrator);
    EXECUTE format('GRANT INSERT, UPDATE ON mana_migration_integrityfix, mana_migration_checklist TO %I', migrator);
    EXECUTE format('GRANT INSERT ON mana_migration_rehearsal, mana_migration_closing TO %I', migrator);
    EXECUTE format('GRANT INSERT, UPDATE ON mana_migration_runrequest TO %I, %I', app, migrator);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON mana_migration_reportfile TO %I, %I', app, migrator);
    EXECUTE format('GRANT DELETE ON mana_migration_usermigration TO %I', migrator);  -- --no-preserve-logs
    EXECUTE format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %I TO %I, %I', current_schema(), app, migrator);
END
$roles$;

COMMIT;
