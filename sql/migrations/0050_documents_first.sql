-- An account's rows are deleted by foreign keys, in an order that depends on which was created first, and so on whether the
-- database was restored from a dump. Who saves a document locks it, and then what counts it; so in another order the two
-- can wait for each other. Now the documents go first, in every program that deletes an account, after its row is locked.
CREATE FUNCTION textgen_documents_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM documents d WHERE d.user_id = OLD.id;
    DELETE FROM deleted_documents d WHERE d.user_id = OLD.id;
    DELETE FROM document_totals t WHERE t.user_id = OLD.id;
    DELETE FROM document_rooms r WHERE r.user_id = OLD.id;
    RETURN OLD;
END $$;

CREATE TRIGGER users_documents_first BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION textgen_documents_first();

-- Who changes the totals twice in a transaction had a foreign key looked at the second time, which locks the account: after
-- its documents, so that it waits for who deletes them. Totals and rooms are made only by who has the account locked, and
-- end with it by the trigger.
ALTER TABLE document_totals DROP CONSTRAINT document_totals_user_id_fkey;
ALTER TABLE document_rooms DROP CONSTRAINT document_rooms_user_id_fkey;

CREATE FUNCTION textgen_no_totals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM document_totals;
    DELETE FROM document_rooms;
    RETURN NULL;
END $$;

CREATE TRIGGER users_totals_emptied AFTER TRUNCATE ON users EXECUTE FUNCTION textgen_no_totals();
