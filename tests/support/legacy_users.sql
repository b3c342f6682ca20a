-- A legacy database as sites have it: balances and flags on one table "users", which has other columns as well.
-- {users} and {dirty} are filled in by tests/support/legacy.py. The same number gives the same rows.
CREATE TABLE users (
    id uuid PRIMARY KEY,
    telegram_id bigint UNIQUE,
    name varchar(255),
    username varchar(255),
    green_balance integer DEFAULT 0,
    blue_balance integer DEFAULT 0,
    red_balance integer DEFAULT 0,
    mana_balance integer DEFAULT 0,
    legacy_migration_completed boolean DEFAULT false,
    created_at timestamptz DEFAULT now()
);
INSERT INTO users (id, telegram_id, name, username, green_balance, blue_balance, red_balance, created_at)
SELECT md5('user-' || g)::uuid, 1000000 + g, 'User ' || g, 'user_' || g,
       -- skewed as wealth is: many near zero, a few large
       (power((g * 7919 % 10007) / 10007.0, 4) * 2000)::int,
       CASE WHEN g % 3 = 0 THEN (g * 31 % 101) % 50 ELSE 0 END,
       CASE WHEN g % 11 = 0 THEN (g * 17 % 13) % 6 ELSE 0 END,
       timestamptz '2024-01-01' + (g % 600) * interval '1 day'
FROM generate_series(1, {users}) g;
-- one kind of trouble each, spread over the table
UPDATE users SET green_balance = -7 WHERE {dirty} AND telegram_id % 97 = 1;  -- debt
UPDATE users SET blue_balance = NULL WHERE {dirty} AND telegram_id % 97 = 2;  -- never written
UPDATE users SET red_balance = 2147483647 WHERE {dirty} AND telegram_id = 1000003;  -- int4 limit
UPDATE users SET red_balance = 150 WHERE {dirty} AND telegram_id % 97 = 4;  -- worth more than 100,000 mana
UPDATE users SET mana_balance = 500 WHERE {dirty} AND telegram_id % 97 = 5;  -- mana without a migration
UPDATE users SET legacy_migration_completed = NULL WHERE {dirty} AND telegram_id % 97 = 6;  -- neither yes nor no
UPDATE users SET legacy_migration_completed = true,  -- half done by an older tool: legacy balances left in place
       mana_balance = coalesce(green_balance, 0) * 10 + coalesce(blue_balance, 0) * 100 + coalesce(red_balance, 0) * 1000
       WHERE {dirty} AND telegram_id % 97 = 7;
UPDATE users SET legacy_migration_completed = true, mana_balance = 0, green_balance = 5
       WHERE {dirty} AND telegram_id % 97 = 8;  -- flagged, but never paid
UPDATE users SET name = '<script>alert(1)</script>' WHERE {dirty} AND telegram_id % 97 = 9;
UPDATE users SET name = '=HYPERLINK("http://example.invalid";"x")' WHERE {dirty} AND telegram_id % 97 = 10;
UPDATE users SET name = E'line\nbreak, comma "quote"' WHERE {dirty} AND telegram_id % 97 = 11;
UPDATE users SET name = NULL, username = NULL WHERE {dirty} AND telegram_id % 97 = 12;
