-- The ledger itself knows a charge whose id was made for it, which can only come again with the same time: of that, it
-- has one row. `charge_ids` is for the ids that clients choose (and has all those from before): these may come again with
-- any request, at any time.
CREATE UNIQUE INDEX usage_events_once ON usage_events (user_id, created, id);
DROP INDEX usage_events_of_user;

-- The first month whose charges the ledger still knows, where some were dropped. Who drops them first changes this row,
-- and who brings a charge that comes late locks it: so it cannot be taken for new because its month goes meanwhile. Whoever
-- takes months away by hand, by detaching them, sets it first.
ALTER TABLE installation ADD COLUMN ledger_begins date;

-- As before, and says so there. The last three days' months are never dropped: what was charged so lately may be tried
-- again without a look at the row above.
CREATE OR REPLACE FUNCTION textgen_drop_usage_before(day date) RETURNS integer LANGUAGE plpgsql
SET lock_timeout = '500ms' AS $$
DECLARE
    kept_from timestamp := date_trunc('month', least(day::timestamp, (now() AT TIME ZONE 'UTC') - interval '3 days'));
    name      text;
    dropped   integer := 0;
BEGIN
    UPDATE installation SET ledger_begins = kept_from::date WHERE ledger_begins IS NULL OR ledger_begins < kept_from;
    DELETE FROM usage_events_default WHERE created < kept_from AT TIME ZONE 'UTC';
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'usage_events'::regclass AND c.relname ~ '^usage_events_\d{4}_\d{2}$'
            AND to_date(right(c.relname, 7), 'YYYY_MM') < kept_from
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
