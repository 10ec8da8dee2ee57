-- A save that found the first room in use, and nothing in its own, filled the first one again, as that was free by then: so
-- it found nothing in its own the next time either. Now its own is filled, unless the first one is used up.

CREATE OR REPLACE FUNCTION textgen_take_room(of_user varchar, number bigint, size bigint, quota bigint, quota_bytes bigint)
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
        -- If there is room in the first one, it was in use.
        of_slot := CASE WHEN EXISTS (
            SELECT FROM document_rooms r WHERE r.user_id = of_user AND r.slot = 0 AND r.documents >= number
                AND r.bytes >= size AND r.max_documents = quota AND r.max_bytes = quota_bytes)
            THEN 1 + pg_backend_pid() % 15 ELSE 0 END;
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
