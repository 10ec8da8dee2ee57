-- Earlier versions of documents. A save that overwrites a text keeps it if the last one was kept ten minutes ago, if less than
-- half of the text is left, or if it is asked to; so an editor that saves with each pause keeps a few in an hour. A document
-- has at most 50, and each is kept for 30 days. What an account's versions take is bounded as its documents are, apart from
-- them: the oldest make room.
--
-- They have no foreign keys: they stay with a document that is deleted and can still be restored, which is in another table
-- then, and triggers delete them once it is in neither.
CREATE TABLE document_versions (
    document_id varchar NOT NULL,
    version     bigint NOT NULL, -- the document's, when it had this text
    user_id     varchar NOT NULL,
    title       varchar NOT NULL,
    content     text,
    updated     timestamptz NOT NULL, -- when this text was saved
    kept        timestamptz NOT NULL DEFAULT now(), -- when it was overwritten
    bytes       bigint NOT NULL, -- of the title and the text
    PRIMARY KEY (document_id, version)
);
CREATE INDEX document_versions_of_user ON document_versions (user_id, kept);
CREATE INDEX document_versions_kept ON document_versions (kept);

-- What the versions of an account take is the sum of its rows here. Whoever adds or deletes versions adds a row and locks none,
-- so saves of one account do not wait for each other, nor for whoever purges. Many rows are now and then made one.
CREATE TABLE document_version_bytes (
    user_id varchar NOT NULL,
    bytes   bigint NOT NULL
);
CREATE INDEX document_version_bytes_of_user ON document_version_bytes (user_id);

CREATE FUNCTION textgen_count_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO document_version_bytes (user_id, bytes)
        SELECT a.user_id, sum(a.bytes)::bigint FROM added a GROUP BY a.user_id;
    ELSE
        -- Nothing is left of an account that is gone.
        INSERT INTO document_version_bytes (user_id, bytes)
        SELECT r.user_id, -sum(r.bytes)::bigint FROM removed r
        WHERE EXISTS (SELECT FROM users u WHERE u.id = r.user_id) GROUP BY r.user_id;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER document_versions_added AFTER INSERT ON document_versions REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION textgen_count_versions();
CREATE TRIGGER document_versions_removed AFTER DELETE ON document_versions REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION textgen_count_versions();

-- When a version of this document was last kept; NULL for never.
ALTER TABLE documents ADD COLUMN kept timestamptz;

-- Whether a save that makes one text of the other keeps the one of before. An empty one is none to come back to.
CREATE FUNCTION textgen_is_version(
    title text, content text, new_title text, new_content text, last_kept timestamptz, asked boolean
) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(octet_length(content), 0) > 0
        AND (asked OR last_kept < now() - interval '10 minutes'
            OR octet_length(content) >= 256 AND coalesce(octet_length(new_content), 0) < octet_length(content) / 2)
        AND (title, content) IS DISTINCT FROM (new_title, new_content)
$$;

-- Keeps a document's present text, and deletes what is too much then. The document must be locked. Returns true.
CREATE FUNCTION textgen_keep_version(of_document varchar, most_bytes bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    of_user     varchar;
    new_version bigint;
    excess      bigint;
    parts       bigint;
BEGIN
    INSERT INTO document_versions (document_id, version, user_id, title, content, updated, bytes)
    SELECT d.id, d.version, d.user_id, d.title, d.content, d.updated, textgen_document_bytes(d.title, d.content)
    FROM documents d WHERE d.id = of_document
    ON CONFLICT DO NOTHING RETURNING user_id, version INTO of_user, new_version;
    IF NOT FOUND THEN RETURN true; END IF;
    DELETE FROM document_versions v WHERE v.document_id = of_document AND v.version <= (
        SELECT o.version FROM document_versions o WHERE o.document_id = of_document ORDER BY o.version DESC OFFSET 50 LIMIT 1);
    SELECT coalesce(sum(b.bytes), 0) - most_bytes, count(*) INTO excess, parts
    FROM document_version_bytes b WHERE b.user_id = of_user;
    IF excess > 0 THEN
        -- Those that are locked are being deleted.
        WITH oldest AS (
            SELECT v.document_id, v.version, v.kept, v.bytes FROM document_versions v WHERE v.user_id = of_user
            ORDER BY v.kept, v.document_id, v.version LIMIT 1000 FOR UPDATE SKIP LOCKED),
        summed AS (
            SELECT o.document_id, o.version, sum(o.bytes) OVER (ORDER BY o.kept, o.document_id, o.version) - o.bytes AS before
            FROM oldest o)
        DELETE FROM document_versions v USING summed s
        WHERE v.document_id = s.document_id AND v.version = s.version AND s.before < excess;
        -- If those were too small, it is this one that there is no room for.
        SELECT sum(b.bytes) - most_bytes INTO excess FROM document_version_bytes b WHERE b.user_id = of_user;
        IF excess > 0 THEN
            DELETE FROM document_versions v WHERE v.document_id = of_document AND v.version = new_version;
        END IF;
    END IF;
    IF parts > 100 THEN
        WITH taken AS (
            DELETE FROM document_version_bytes b WHERE b.ctid = ANY (ARRAY(
                SELECT o.ctid FROM document_version_bytes o WHERE o.user_id = of_user FOR UPDATE SKIP LOCKED))
            RETURNING b.bytes)
        INSERT INTO document_version_bytes (user_id, bytes)
        SELECT of_user, sum(t.bytes)::bigint FROM taken t HAVING count(*) > 0;
    END IF;
    RETURN true;
END $$;

-- As textgen_save_document, and keeps the version of before.
CREATE FUNCTION textgen_save_and_keep(
    of_id varchar, of_user varchar, new_title text, has_content boolean, new_content text, of_version bigint, quota bigint,
    quota_bytes bigint, asked boolean, OUT is_found boolean, OUT saved bigint
) LANGUAGE plpgsql AS $$
DECLARE
    growth  bigint;
    is_kept boolean;
BEGIN
    PERFORM FROM users u WHERE u.id = of_user FOR KEY SHARE;
    SELECT textgen_document_bytes(coalesce(new_title, d.title), CASE WHEN has_content THEN new_content ELSE d.content END)
            - textgen_document_bytes(d.title, d.content),
        textgen_is_version(d.title, d.content, coalesce(new_title, d.title),
            CASE WHEN has_content THEN new_content ELSE d.content END, coalesce(d.kept, d.created), asked)
    INTO growth, is_kept
    FROM documents d WHERE d.id = of_id AND d.user_id = of_user AND (of_version IS NULL OR d.version = of_version)
    FOR NO KEY UPDATE;
    is_found := FOUND;
    IF NOT is_found OR growth <> 0 AND NOT textgen_take_room(of_user, 0, growth, quota, quota_bytes) THEN RETURN; END IF;
    IF is_kept THEN PERFORM textgen_keep_version(of_id, quota_bytes); END IF;
    PERFORM textgen_note_counted();
    UPDATE documents d SET title = coalesce(new_title, d.title),
        content = CASE WHEN has_content THEN new_content ELSE d.content END, updated = now(), version = d.version + 1,
        kept = CASE WHEN is_kept THEN now() ELSE d.kept END
    WHERE d.id = of_id RETURNING d.version INTO saved;
END $$;

-- Gives a document the text of an earlier version, and keeps its own. `saved` is its new version, or the same one if that is
-- what it has. `is_found` is false if there is no such document or version. Otherwise `saved` is NULL if the quota does not
-- admit it, or, with `wait_seconds`, not yet: it counts as a restoration, as a few bytes have two texts written.
CREATE FUNCTION textgen_revert_document(
    of_id varchar, of_user varchar, of_version bigint, quota bigint, quota_bytes bigint, bytes_a_minute bigint,
    OUT is_found boolean, OUT saved bigint, OUT wait_seconds double precision
) LANGUAGE plpgsql AS $$
DECLARE
    present record;
    earlier record;
    before  bigint;
    size    bigint;
BEGIN
    is_found := false;
    PERFORM FROM users u WHERE u.id = of_user FOR KEY SHARE;
    IF NOT FOUND THEN RETURN; END IF;
    SELECT d.version, d.title, d.content, textgen_document_bytes(d.title, d.content) AS bytes INTO present
    FROM documents d WHERE d.id = of_id AND d.user_id = of_user FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    IF present.version = of_version THEN
        is_found := true;
        saved := of_version;
        RETURN;
    END IF;
    SELECT v.title, v.content, v.bytes INTO earlier
    FROM document_versions v WHERE v.document_id = of_id AND v.version = of_version;
    IF NOT FOUND THEN RETURN; END IF;
    is_found := true;
    size := earlier.bytes + present.bytes;
    PERFORM textgen_lock_totals(ARRAY[of_user]);
    SELECT greatest(0, t.restored_bytes
        - greatest(0, extract(epoch FROM clock_timestamp() - t.restored_at)) * bytes_a_minute / 60)::bigint INTO before
    FROM document_totals t WHERE t.user_id = of_user;
    IF before > 0 AND before + size > bytes_a_minute THEN
        wait_seconds := (before + size - greatest(bytes_a_minute, size)) * 60.0 / bytes_a_minute;
        RETURN;
    END IF;
    IF earlier.bytes <> present.bytes
       AND NOT textgen_take_room(of_user, 0, earlier.bytes - present.bytes, quota, quota_bytes)
    THEN
        RETURN;
    END IF;
    UPDATE document_totals t SET restored_bytes = before + size, restored_at = clock_timestamp() WHERE t.user_id = of_user;
    IF textgen_is_version(present.title, present.content, earlier.title, earlier.content, NULL, true) THEN
        PERFORM textgen_keep_version(of_id, quota_bytes);
    END IF;
    PERFORM textgen_note_counted();
    UPDATE documents d SET title = earlier.title, content = earlier.content, updated = now(), version = d.version + 1,
        kept = now()
    WHERE d.id = of_id RETURNING d.version INTO saved;
END $$;

-- Deletes the versions of documents that are neither there nor can be restored. What was moved from one table to the other by
-- the statement is there by now.
CREATE FUNCTION textgen_end_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM document_versions v USING removed r
    WHERE v.document_id = r.id AND NOT EXISTS (SELECT FROM documents d WHERE d.id = r.id)
        AND NOT EXISTS (SELECT FROM deleted_documents d WHERE d.id = r.id);
    RETURN NULL;
END $$;

CREATE TRIGGER documents_versions AFTER DELETE ON documents REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION textgen_end_versions();
CREATE TRIGGER deleted_documents_versions AFTER DELETE ON deleted_documents REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION textgen_end_versions();

-- As before, and of versions.
CREATE OR REPLACE FUNCTION textgen_documents_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM documents d WHERE d.user_id = OLD.id;
    DELETE FROM deleted_documents d WHERE d.user_id = OLD.id;
    DELETE FROM document_versions v WHERE v.user_id = OLD.id;
    DELETE FROM document_version_bytes b WHERE b.user_id = OLD.id;
    DELETE FROM document_totals t WHERE t.user_id = OLD.id;
    DELETE FROM document_rooms r WHERE r.user_id = OLD.id;
    RETURN OLD;
END $$;

CREATE FUNCTION textgen_no_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM document_versions v WHERE NOT EXISTS (SELECT FROM documents d WHERE d.id = v.document_id)
        AND NOT EXISTS (SELECT FROM deleted_documents d WHERE d.id = v.document_id);
    RETURN NULL;
END $$;

CREATE TRIGGER documents_no_versions AFTER TRUNCATE ON documents EXECUTE FUNCTION textgen_no_versions();
CREATE TRIGGER deleted_documents_no_versions AFTER TRUNCATE ON deleted_documents EXECUTE FUNCTION textgen_no_versions();
