-- The Python system's tables are brought into the shape of a new database before the first migration, in the same
-- transaction. First what the next files use; `end.sql` drops it.

-- No deferred check may be due when a table is altered.
SET CONSTRAINTS ALL IMMEDIATE;

-- That system wrote UTC without saying so.
CREATE FUNCTION textgen_old_time(old timestamp) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
$$ SELECT old AT TIME ZONE 'UTC' $$;
CREATE FUNCTION textgen_old_time(old timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$ SELECT old $$;

-- Its documents were first numbered, and later named like this.
CREATE FUNCTION textgen_old_document(number bigint) RETURNS varchar LANGUAGE sql IMMUTABLE AS
$$ SELECT 'doc_' || number $$;
CREATE FUNCTION textgen_old_document(id text) RETURNS varchar LANGUAGE sql IMMUTABLE AS $$ SELECT id $$;

-- An address in the form in which it is stored: small letters, and none of Unicode's white space around it. In the locale C,
-- PostgreSQL knows no small letters but those of ASCII; another collation knows the rest.
DO $do$
DECLARE
    letters text := '';
BEGIN
    IF lower('É') <> 'é' THEN
        SELECT format('COLLATE %I.%I', n.nspname, c.collname) INTO letters
        FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
        WHERE c.collname IN ('und-x-icu', 'C.utf8', 'en_US.utf8')
            AND c.collencoding IN (-1, pg_char_to_encoding('UTF8'))
        ORDER BY c.collname = 'und-x-icu' DESC LIMIT 1;
    END IF;
    EXECUTE format($sql$
        CREATE FUNCTION textgen_old_address(email text) RETURNS text LANGUAGE sql IMMUTABLE AS
        $f$ SELECT lower(btrim(email, E' \t\n\u000B\f\r\u0085\u00A0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200A\u2028\u2029\u202F\u205F\u3000') %s) $f$
        $sql$, coalesce(letters, ''));
END $do$;

CREATE SEQUENCE textgen_old_rows CACHE 1000;

-- How many rows of a table are to be rewritten, and after how many each it is said that they are done.
CREATE FUNCTION textgen_old_begin(total bigint) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('textgen.old_total', total::text, true),
        set_config('textgen.old_step', greatest(5000, total / 20)::text, true), setval('textgen_old_rows', 1, false);
$$;

-- Called for each row of a table that is rewritten. It is always true.
CREATE FUNCTION textgen_old_row() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done bigint := nextval('textgen_old_rows');
BEGIN
    IF done % current_setting('textgen.old_step')::bigint = 0 THEN
        RAISE NOTICE '% of % rows', done, current_setting('textgen.old_total') USING ERRCODE = 'TG000';
    END IF;
    RETURN true;
END $$;
