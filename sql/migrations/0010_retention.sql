-- Drops the ledger's months that ended before the month of `day`; how many. The totals of days and the ids of charges
-- stay: an id is charged once, for ever. Where others read the ledger for long, it gives up soon: charges wait behind it.
CREATE FUNCTION textgen_drop_usage_before(day date) RETURNS integer LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    kept_from timestamp := date_trunc('month', day::timestamp);
    name      text;
    dropped   integer := 0;
BEGIN
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
