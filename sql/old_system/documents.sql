LOCK TABLE documents IN ACCESS EXCLUSIVE MODE;

SELECT textgen_old_begin(count(*)) FROM documents;

ALTER TABLE documents ADD COLUMN IF NOT EXISTS is_public boolean;

DO $$
DECLARE
    numbers text := pg_get_serial_sequence('documents', 'id');
BEGIN
    ALTER TABLE documents ALTER COLUMN id DROP IDENTITY IF EXISTS;
    ALTER TABLE documents
        ALTER COLUMN id DROP DEFAULT,
        ALTER COLUMN title DROP DEFAULT,
        ALTER COLUMN created DROP DEFAULT,
        ALTER COLUMN updated DROP DEFAULT,
        ALTER COLUMN is_public DROP DEFAULT;
    -- That of an identity is gone by now.
    IF to_regclass(numbers) IS NOT NULL THEN
        EXECUTE 'DROP SEQUENCE ' || numbers;
    END IF;
END $$;

ALTER TABLE documents
    ALTER COLUMN id TYPE varchar USING textgen_old_document(id),
    ALTER COLUMN title TYPE varchar USING coalesce(title, 'Untitled Document'),
    ALTER COLUMN created TYPE timestamptz
        USING coalesce(textgen_old_time(created), textgen_old_time(updated), now()),
    ALTER COLUMN updated TYPE timestamptz
        USING coalesce(textgen_old_time(updated), textgen_old_time(created), now()),
    ALTER COLUMN is_public TYPE boolean USING textgen_old_row() AND coalesce(is_public, false);

-- Before there was a foreign key, documents outlived their accounts. Nobody can open them; they are put aside.
DO $$
DECLARE
    moved bigint;
BEGIN
    IF EXISTS (SELECT FROM documents d WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = d.user_id)) THEN
        CREATE TABLE orphaned_documents (LIKE documents);
        WITH gone AS (
            DELETE FROM documents d WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = d.user_id) RETURNING d.*)
        INSERT INTO orphaned_documents SELECT * FROM gone;
        GET DIAGNOSTICS moved = ROW_COUNT;
        RAISE NOTICE '% documents of accounts that do not exist were moved to the table orphaned_documents', moved
            USING ERRCODE = 'TG000';
    END IF;
END $$;

ALTER TABLE documents ALTER COLUMN user_id SET NOT NULL;
