-- What the documents of each account take, and those of its deleted ones that can still be restored. Triggers keep the
-- totals, so they are right whatever program writes, and a save need not look at all of an account's documents. They are
-- updated once for each statement, after it: so the rows of documents are locked before them, in every program.
CREATE TABLE document_totals (
    user_id       varchar PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    documents     bigint NOT NULL DEFAULT 0,
    bytes         bigint NOT NULL DEFAULT 0,
    deleted       bigint NOT NULL DEFAULT 0,
    deleted_bytes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50); -- every save updates a row

-- Nothing is written between the triggers and the first count.
LOCK TABLE users, documents, deleted_documents IN SHARE ROW EXCLUSIVE MODE;

-- Bytes of text in a document.
CREATE FUNCTION textgen_document_bytes(title text, content text) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT octet_length(coalesce(title, ''))::bigint + octet_length(coalesce(content, '')) $$;

-- Every account has a row, so that there is one to lock before its first document.
CREATE FUNCTION textgen_begin_totals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO document_totals (user_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER users_totals AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION textgen_begin_totals();

-- Adds what a statement has changed. Of an account that is being deleted, the row may be gone already.
CREATE FUNCTION textgen_count_documents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE document_totals t SET documents = t.documents + c.number, bytes = t.bytes + c.size
        FROM (SELECT user_id, count(*) AS number, sum(textgen_document_bytes(title, content)) AS size
              FROM added GROUP BY user_id) c
        WHERE t.user_id = c.user_id;
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE document_totals t SET documents = t.documents - c.number, bytes = t.bytes - c.size
        FROM (SELECT user_id, count(*) AS number, sum(textgen_document_bytes(title, content)) AS size
              FROM removed GROUP BY user_id) c
        WHERE t.user_id = c.user_id;
    ELSE
        UPDATE document_totals t SET documents = t.documents + c.number, bytes = t.bytes + c.size
        FROM (SELECT user_id, sum(number) AS number, sum(size) AS size
              FROM (SELECT user_id, 1 AS number, textgen_document_bytes(title, content) AS size FROM added
                    UNION ALL
                    SELECT user_id, -1, -textgen_document_bytes(title, content) FROM removed) AS changes
              GROUP BY user_id) c
        WHERE t.user_id = c.user_id AND (c.number <> 0 OR c.size <> 0);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION textgen_count_deleted_documents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE document_totals t SET deleted = t.deleted + c.number, deleted_bytes = t.deleted_bytes + c.size
        FROM (SELECT user_id, count(*) AS number, sum(textgen_document_bytes(title, content)) AS size
              FROM added GROUP BY user_id) c
        WHERE t.user_id = c.user_id;
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE document_totals t SET deleted = t.deleted - c.number, deleted_bytes = t.deleted_bytes - c.size
        FROM (SELECT user_id, count(*) AS number, sum(textgen_document_bytes(title, content)) AS size
              FROM removed GROUP BY user_id) c
        WHERE t.user_id = c.user_id;
    ELSE
        UPDATE document_totals t SET deleted = t.deleted + c.number, deleted_bytes = t.deleted_bytes + c.size
        FROM (SELECT user_id, sum(number) AS number, sum(size) AS size
              FROM (SELECT user_id, 1 AS number, textgen_document_bytes(title, content) AS size FROM added
                    UNION ALL
                    SELECT user_id, -1, -textgen_document_bytes(title, content) FROM removed) AS changes
              GROUP BY user_id) c
        WHERE t.user_id = c.user_id AND (c.number <> 0 OR c.size <> 0);
    END IF;
    RETURN NULL;
END $$;

-- A trigger takes longer than all else that a save does. So the statements that save one document change the totals
-- themselves, and say so for the rest of their transaction, which is over then. Others are counted by the triggers.
CREATE FUNCTION textgen_note_counted() RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT set_config('textgen.counted', 'yes', true) $$;

CREATE TRIGGER documents_added AFTER INSERT ON documents REFERENCING NEW TABLE AS added
FOR EACH STATEMENT WHEN (current_setting('textgen.counted', true) IS DISTINCT FROM 'yes')
EXECUTE FUNCTION textgen_count_documents();
CREATE TRIGGER documents_changed AFTER UPDATE ON documents REFERENCING OLD TABLE AS removed NEW TABLE AS added
FOR EACH STATEMENT WHEN (current_setting('textgen.counted', true) IS DISTINCT FROM 'yes')
EXECUTE FUNCTION textgen_count_documents();
CREATE TRIGGER documents_removed AFTER DELETE ON documents REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION textgen_count_documents();

CREATE TRIGGER deleted_documents_added AFTER INSERT ON deleted_documents REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION textgen_count_deleted_documents();
CREATE TRIGGER deleted_documents_changed AFTER UPDATE ON deleted_documents REFERENCING OLD TABLE AS removed NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION textgen_count_deleted_documents();
CREATE TRIGGER deleted_documents_removed AFTER DELETE ON deleted_documents REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION textgen_count_deleted_documents();

-- TRUNCATE has no rows to count.
CREATE FUNCTION textgen_no_documents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE document_totals SET documents = 0, bytes = 0;
    RETURN NULL;
END $$;

CREATE FUNCTION textgen_no_deleted_documents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE document_totals SET deleted = 0, deleted_bytes = 0;
    RETURN NULL;
END $$;

CREATE TRIGGER documents_emptied AFTER TRUNCATE ON documents EXECUTE FUNCTION textgen_no_documents();
CREATE TRIGGER deleted_documents_emptied AFTER TRUNCATE ON deleted_documents EXECUTE FUNCTION textgen_no_deleted_documents();

INSERT INTO document_totals (user_id, documents, bytes, deleted, deleted_bytes)
SELECT u.id, coalesce(d.number, 0), coalesce(d.size, 0), coalesce(x.number, 0), coalesce(x.size, 0)
FROM users u
LEFT JOIN (SELECT user_id, count(*) AS number, sum(textgen_document_bytes(title, content)) AS size
           FROM documents GROUP BY user_id) d ON d.user_id = u.id
LEFT JOIN (SELECT user_id, count(*) AS number, sum(textgen_document_bytes(title, content)) AS size
           FROM deleted_documents GROUP BY user_id) x ON x.user_id = u.id;
