-- A check constraint is computed with every charge, which changes the row as well: a tenth of what charges cost the
-- database. A trigger looks at an address when one is written, and says what the constraint said. One that ran before the
-- change would lock the row of every charge by itself first, whatever column it is for.
CREATE FUNCTION textgen_email_is_normal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING CONSTRAINT = 'users_email_is_normal', TABLE = 'users', COLUMN = 'email',
        MESSAGE = 'an e-mail address is kept in small letters, without spaces around it';
END $$;
CREATE TRIGGER users_email_is_normal AFTER INSERT OR UPDATE OF email ON users
    FOR EACH ROW WHEN (NEW.email <> lower(btrim(NEW.email))) EXECUTE FUNCTION textgen_email_is_normal();
ALTER TABLE users DROP CONSTRAINT users_email_is_normal;
