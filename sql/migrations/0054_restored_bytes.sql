-- Whoever deletes or restores a document has its whole text written anew, as it moves to another table, with a request of a
-- few bytes. A deletion was paid for by the save, or by the restoration, that wrote the text before. So it is enough to bound
-- what an account may have restored.
--
-- The rows stay in two tables, rather than in one with a column that says which are deleted: processes of before, and other
-- programs that read `documents`, would show those.
ALTER TABLE document_totals
    ADD COLUMN restored_bytes bigint NOT NULL DEFAULT 0, -- counted at `restored_at`, and less since then
    ADD COLUMN restored_at timestamptz NOT NULL DEFAULT now();

-- Restores a document as it was, unless the account has restored more than so many bytes in a minute. `restored` is NULL if
-- there is none, and false if the quota does not admit it, or, with `wait_seconds`, not yet. One that is larger than the
-- allowance is restored if nothing else was.
CREATE FUNCTION textgen_restore_within(
    of_id varchar, of_user varchar, quota bigint, quota_bytes bigint, bytes_a_minute bigint,
    OUT restored boolean, OUT wait_seconds double precision
) LANGUAGE plpgsql AS $$
DECLARE
    size   bigint;
    before bigint;
BEGIN
    PERFORM FROM users u WHERE u.id = of_user FOR KEY SHARE;
    IF NOT FOUND THEN RETURN; END IF;
    SELECT textgen_document_bytes(d.title, d.content) INTO size FROM deleted_documents d
    WHERE d.id = of_id AND d.user_id = of_user FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM textgen_lock_totals(ARRAY[of_user]);
    SELECT greatest(0, t.restored_bytes
        - greatest(0, extract(epoch FROM clock_timestamp() - t.restored_at)) * bytes_a_minute / 60)::bigint INTO before
    FROM document_totals t WHERE t.user_id = of_user;
    restored := false;
    IF before > 0 AND before + size > bytes_a_minute THEN
        wait_seconds := (before + size - greatest(bytes_a_minute, size)) * 60.0 / bytes_a_minute;
        RETURN;
    END IF;
    IF NOT textgen_take_room(of_user, 1, size, quota, quota_bytes) THEN RETURN; END IF;
    UPDATE document_totals t SET restored_bytes = before + size, restored_at = clock_timestamp() WHERE t.user_id = of_user;
    PERFORM textgen_note_counted();
    WITH removed AS (
        DELETE FROM deleted_documents d WHERE d.id = of_id
        RETURNING d.id, d.title, d.content, d.user_id, d.created, d.updated, d.is_public, d.version)
    INSERT INTO documents (id, title, content, user_id, created, updated, is_public, version) SELECT * FROM removed;
    restored := true;
END $$;
