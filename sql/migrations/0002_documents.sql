-- The documents, likewise new or taken over from the Python system.
CREATE TABLE IF NOT EXISTS documents (
    id        varchar PRIMARY KEY,
    title     varchar NOT NULL DEFAULT 'Untitled Document',
    content   text,
    user_id   varchar NOT NULL,
    created   timestamptz NOT NULL DEFAULT now(),
    updated   timestamptz NOT NULL DEFAULT now(),
    is_public boolean NOT NULL DEFAULT false
);

DO $$
DECLARE
    reference record;
BEGIN
    IF (SELECT data_type FROM information_schema.columns
        WHERE table_schema = current_schema() AND table_name = 'documents' AND column_name = 'created')
       = 'timestamp without time zone'
    THEN
        ALTER TABLE documents
            ALTER COLUMN created TYPE timestamptz USING created AT TIME ZONE 'UTC',
            ALTER COLUMN updated TYPE timestamptz USING updated AT TIME ZONE 'UTC';
    END IF;
    -- An account that goes takes its rows along: every reference to users, whatever it was called, says so from now
    -- on, and with it those to the tables that hang below.
    FOR reference IN
        SELECT conrelid::regclass AS child, confrelid::regclass AS parent, conname,
               pg_get_constraintdef(oid) AS definition
        FROM pg_constraint
        WHERE contype = 'f' AND confdeltype IN ('a', 'r')
          AND confrelid IN (SELECT to_regclass(t) FROM unnest(ARRAY['users', 'ai_characters', 'chat_rooms']) AS t)
          AND connamespace = current_schema()::regnamespace
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', reference.child, reference.conname);
        -- What it does on deletion stands behind the columns it refers to, before DEFERRABLE and the like.
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', reference.child, reference.conname,
            regexp_replace(replace(reference.definition, ' ON DELETE RESTRICT', ''),
                '( REFERENCES [^(]+[(][^)]+[)])', '\1 ON DELETE CASCADE'));
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = 'documents'::regclass
                                               AND confrelid = 'users'::regclass)
    THEN
        ALTER TABLE documents ADD CONSTRAINT documents_user_id_fkey
            FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
    END IF;
END $$;

UPDATE documents SET
    title     = coalesce(title, 'Untitled Document'),
    created   = coalesce(created, updated, now()),
    updated   = coalesce(updated, created, now()),
    is_public = coalesce(is_public, false)
WHERE title IS NULL OR created IS NULL OR updated IS NULL OR is_public IS NULL;

ALTER TABLE documents
    ADD COLUMN IF NOT EXISTS version bigint NOT NULL DEFAULT 1, -- counts the saves
    ALTER COLUMN title SET DEFAULT 'Untitled Document',
    ALTER COLUMN title SET NOT NULL,
    ALTER COLUMN created SET DEFAULT now(),
    ALTER COLUMN created SET NOT NULL,
    ALTER COLUMN updated SET DEFAULT now(),
    ALTER COLUMN updated SET NOT NULL,
    ALTER COLUMN is_public SET DEFAULT false,
    ALTER COLUMN is_public SET NOT NULL;

-- One person's documents, newest first; `created` never changes, so a page of the list is stable.
CREATE INDEX documents_of_user ON documents (user_id, created DESC, id DESC);
