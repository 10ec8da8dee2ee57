-- Who adds to an account's documents locked the one row of its totals until the commit, so those who did so at once waited
-- for each other. Now room is set aside for several documents at a time: it counts in the totals when it is set aside, and
-- saves then take from it, each from a row that is free. What documents take is the totals less what is left of the rooms.
-- Near the quota nothing is set aside, and what was is taken back, so the quota holds to the byte.
--
-- A program that knows only the totals takes what is set aside for used, and so never adds too much.
CREATE TABLE document_rooms (
    user_id       varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    slot          smallint NOT NULL,
    documents     bigint NOT NULL,
    bytes         bigint NOT NULL,
    max_documents bigint NOT NULL, -- the quota that it was set aside under: it is no use under another
    max_bytes     bigint NOT NULL,
    CONSTRAINT document_rooms_pkey PRIMARY KEY (user_id, slot)
) WITH (fillfactor = 50); -- every save updates a row

-- Locks the totals of accounts until the end of the transaction.
CREATE FUNCTION textgen_lock_totals(of_users varchar[]) RETURNS void LANGUAGE sql AS $$
    SELECT FROM document_totals t WHERE t.user_id = ANY (of_users) ORDER BY t.user_id COLLATE "C" FOR NO KEY UPDATE
$$;

-- Takes back all that is set aside for accounts, and leaves their totals locked: nothing is set aside without that lock.
CREATE FUNCTION textgen_take_back_rooms(of_users varchar[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM textgen_lock_totals(of_users);
    PERFORM FROM document_rooms r WHERE r.user_id = ANY (of_users) ORDER BY r.user_id COLLATE "C", r.slot FOR UPDATE;
    WITH taken AS (
        DELETE FROM document_rooms r WHERE r.user_id = ANY (of_users) RETURNING r.user_id, r.documents, r.bytes)
    UPDATE document_totals t SET documents = t.documents - r.documents, bytes = t.bytes - r.bytes
    FROM (SELECT user_id, sum(documents)::bigint AS documents, sum(bytes)::bigint AS bytes FROM taken GROUP BY user_id) AS r
    WHERE t.user_id = r.user_id;
END $$;

-- The room that a save takes from: the first while no other save of the account is under way, else one of fifteen more.
CREATE FUNCTION textgen_document_slot(of_user text) RETURNS smallint LANGUAGE sql VOLATILE AS $$
    SELECT (CASE WHEN pg_try_advisory_xact_lock(47, hashtext(of_user)) THEN 0
            ELSE 1 + pg_backend_pid() % 15 END)::smallint
$$;

-- Counts so many documents and bytes more in an account's totals, and sets room aside for the next. Returns whether the
-- quota admits them; it always admits fewer bytes. The account must be locked, and the document if there is one.
CREATE FUNCTION textgen_take_room(of_user varchar, number bigint, size bigint, quota bigint, quota_bytes bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    used       document_totals;
    before     document_rooms;
    of_slot    smallint;
    room       bigint;
    room_bytes bigint;
BEGIN
    SELECT * INTO used FROM document_totals t WHERE t.user_id = of_user FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN false; END IF;
    -- A small part of what is free, so that all of them together are not much of it.
    room := least(128, (quota - greatest(used.documents, 0)) / 32);
    room_bytes := least(greatest(2097152, size * 4), (quota_bytes - greatest(used.bytes, 0)) / 32);
    IF room > 0 AND room_bytes > 0 AND room_bytes >= size THEN
        of_slot := textgen_document_slot(of_user);
        SELECT * INTO before FROM document_rooms r WHERE r.user_id = of_user AND r.slot = of_slot FOR NO KEY UPDATE;
        UPDATE document_totals t SET documents = t.documents + room - coalesce(before.documents, 0),
            bytes = t.bytes + room_bytes - coalesce(before.bytes, 0)
        WHERE t.user_id = of_user;
        INSERT INTO document_rooms VALUES (of_user, of_slot, room - number, room_bytes - size, quota, quota_bytes)
        ON CONFLICT ON CONSTRAINT document_rooms_pkey DO UPDATE SET
            documents = excluded.documents, bytes = excluded.bytes,
            max_documents = excluded.max_documents, max_bytes = excluded.max_bytes;
        RETURN true;
    END IF;
    PERFORM textgen_take_back_rooms(ARRAY[of_user]);
    UPDATE document_totals t SET documents = t.documents + number, bytes = t.bytes + size
    WHERE t.user_id = of_user AND (number = 0 OR t.documents <= quota - number)
        AND (size <= 0 OR t.bytes <= quota_bytes - greatest(size, 0));
    RETURN FOUND;
END $$;

-- Whether the statements of a session count what they save is said once, when it connects. Behind a pooler, which does not
-- take such settings, each transaction says it.
CREATE OR REPLACE FUNCTION textgen_note_counted() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN current_setting('textgen.counted', true) IS DISTINCT FROM 'yes'
        THEN set_config('textgen.counted', 'yes', true) END
$$;

-- Inserts a document, where no room was set aside for it. Returns its version, or NULL: there is no such account, or the
-- quota does not admit it.
CREATE FUNCTION textgen_insert_document(
    new_id varchar, of_user varchar, new_title text, new_content text, quota bigint, quota_bytes bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    saved bigint;
BEGIN
    PERFORM FROM users u WHERE u.id = of_user FOR KEY SHARE;
    IF NOT FOUND
       OR NOT textgen_take_room(of_user, 1, textgen_document_bytes(new_title, new_content), quota, quota_bytes)
    THEN
        RETURN NULL;
    END IF;
    PERFORM textgen_note_counted();
    INSERT INTO documents (id, user_id, title, content) VALUES (new_id, of_user, new_title, new_content)
    RETURNING version INTO saved;
    RETURN saved;
END $$;

-- Saves a document, where no room was set aside for what it grows by. `is_found` is false if the account has no such
-- document, or it has another version; `saved` is NULL if it is not saved.
CREATE FUNCTION textgen_save_document(
    of_id varchar, of_user varchar, new_title text, has_content boolean, new_content text, of_version bigint, quota bigint,
    quota_bytes bigint, OUT is_found boolean, OUT saved bigint
) LANGUAGE plpgsql AS $$
DECLARE
    growth bigint;
BEGIN
    PERFORM FROM users u WHERE u.id = of_user FOR KEY SHARE;
    SELECT textgen_document_bytes(coalesce(new_title, d.title), CASE WHEN has_content THEN new_content ELSE d.content END)
        - textgen_document_bytes(d.title, d.content) INTO growth
    FROM documents d WHERE d.id = of_id AND d.user_id = of_user AND (of_version IS NULL OR d.version = of_version)
    FOR NO KEY UPDATE;
    is_found := FOUND;
    IF NOT is_found OR growth <> 0 AND NOT textgen_take_room(of_user, 0, growth, quota, quota_bytes) THEN RETURN; END IF;
    PERFORM textgen_note_counted();
    UPDATE documents d SET title = coalesce(new_title, d.title),
        content = CASE WHEN has_content THEN new_content ELSE d.content END, updated = now(), version = d.version + 1
    WHERE d.id = of_id RETURNING d.version INTO saved;
END $$;

-- Restores a document as it was. Returns whether the quota admits it, or NULL if there is none.
CREATE FUNCTION textgen_restore_document(of_id varchar, of_user varchar, quota bigint, quota_bytes bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    size bigint;
BEGIN
    PERFORM FROM users u WHERE u.id = of_user FOR KEY SHARE;
    IF NOT FOUND THEN RETURN NULL; END IF;
    SELECT textgen_document_bytes(d.title, d.content) INTO size FROM deleted_documents d
    WHERE d.id = of_id AND d.user_id = of_user FOR UPDATE;
    IF NOT FOUND THEN RETURN NULL; END IF;
    IF NOT textgen_take_room(of_user, 1, size, quota, quota_bytes) THEN RETURN false; END IF;
    PERFORM textgen_note_counted();
    WITH removed AS (
        DELETE FROM deleted_documents d WHERE d.id = of_id
        RETURNING d.id, d.title, d.content, d.user_id, d.created, d.updated, d.is_public, d.version)
    INSERT INTO documents (id, title, content, user_id, created, updated, is_public, version) SELECT * FROM removed;
    RETURN true;
END $$;

-- As before; but who does not ask for room leaves none to others, who would else go beyond the quota with theirs.
CREATE OR REPLACE FUNCTION textgen_count_documents() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    owners varchar[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM textgen_take_back_rooms(ARRAY(SELECT DISTINCT a.user_id FROM added a));
        UPDATE document_totals t SET documents = t.documents + c.number, bytes = t.bytes + c.size
        FROM (SELECT user_id, count(*) AS number, sum(textgen_document_bytes(title, content))::bigint AS size
              FROM added GROUP BY user_id) c
        WHERE t.user_id = c.user_id;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM textgen_lock_totals(ARRAY(SELECT DISTINCT r.user_id FROM removed r));
        UPDATE document_totals t SET documents = t.documents - c.number, bytes = t.bytes - c.size
        FROM (SELECT user_id, count(*) AS number, sum(textgen_document_bytes(title, content))::bigint AS size
              FROM removed GROUP BY user_id) c
        WHERE t.user_id = c.user_id;
    ELSE
        SELECT array_agg(c.user_id) INTO owners
        FROM (SELECT s.user_id
              FROM (SELECT user_id, 1 AS number, textgen_document_bytes(title, content) AS size FROM added
                    UNION ALL
                    SELECT user_id, -1, -textgen_document_bytes(title, content) FROM removed) AS s
              GROUP BY s.user_id HAVING sum(s.number) <> 0 OR sum(s.size) <> 0) AS c;
        IF owners IS NULL THEN RETURN NULL; END IF;
        PERFORM textgen_take_back_rooms(owners);
        UPDATE document_totals t SET documents = t.documents + c.number, bytes = t.bytes + c.size
        FROM (SELECT user_id, sum(number)::bigint AS number, sum(size)::bigint AS size
              FROM (SELECT user_id, 1 AS number, textgen_document_bytes(title, content) AS size FROM added
                    UNION ALL
                    SELECT user_id, -1, -textgen_document_bytes(title, content) FROM removed) AS changes
              GROUP BY user_id) c
        WHERE t.user_id = c.user_id;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION textgen_no_documents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE document_totals SET documents = 0, bytes = 0;
    DELETE FROM document_rooms;
    RETURN NULL;
END $$;
