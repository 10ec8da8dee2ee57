-- Two processes that purge deleted documents of several accounts at once changed the totals of these in no order, so they could
-- deadlock. Now the totals are locked in the order of accounts first.
CREATE OR REPLACE FUNCTION textgen_count_deleted_documents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM textgen_lock_totals(ARRAY(SELECT DISTINCT a.user_id FROM added a));
        PERFORM textgen_add_deleted(a.user_id, count(*), sum(textgen_document_bytes(a.title, a.content))::bigint)
        FROM added a GROUP BY a.user_id;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM textgen_lock_totals(ARRAY(SELECT DISTINCT r.user_id FROM removed r));
        PERFORM textgen_add_deleted(r.user_id, -count(*), -sum(textgen_document_bytes(r.title, r.content))::bigint)
        FROM removed r GROUP BY r.user_id;
    ELSE
        PERFORM textgen_lock_totals(ARRAY(SELECT a.user_id FROM added a UNION SELECT r.user_id FROM removed r));
        PERFORM textgen_add_deleted(c.user_id, sum(c.number)::bigint, sum(c.size)::bigint)
        FROM (SELECT user_id, 1 AS number, textgen_document_bytes(title, content) AS size FROM added
              UNION ALL
              SELECT user_id, -1, -textgen_document_bytes(title, content) FROM removed) AS c
        GROUP BY c.user_id HAVING sum(c.number) <> 0 OR sum(c.size) <> 0;
    END IF;
    RETURN NULL;
END $$;

-- Adds to what an account's deleted documents take.
CREATE FUNCTION textgen_add_deleted(of_user varchar, number bigint, size bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE document_totals t SET deleted = t.deleted + number, deleted_bytes = t.deleted_bytes + size WHERE t.user_id = of_user
$$;
