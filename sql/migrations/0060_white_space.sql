-- Of the Python system's addresses, earlier releases took only spaces off. An account whose address had a tab or the like
-- around it could not log in; and one without a secret, where that could be NULL, could not be read.
CREATE FUNCTION textgen_normal_email(email text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT lower(btrim(email, E' \t\n\u000B\f\r\u0085\u00A0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200A\u2028\u2029\u202F\u205F\u3000')) $$;

-- Whoever has the address as it should be keeps it; then a subscriber before others, and the oldest.
WITH odd AS (
    SELECT DISTINCT textgen_normal_email(email) AS address FROM users WHERE email <> textgen_normal_email(email)),
ranked AS (
    SELECT u.id, odd.address, row_number() OVER (
        PARTITION BY odd.address ORDER BY u.email <> odd.address, u.is_subscribed DESC, u.created, u.id) AS place
    FROM users u JOIN odd ON odd.address = textgen_normal_email(u.email))
UPDATE users SET email = CASE place WHEN 1 THEN '' ELSE 'duplicate-' || lower(users.id) || '-of-' END || address
FROM ranked WHERE ranked.id = users.id AND email <> address;

DROP TRIGGER users_email_is_normal ON users;
CREATE TRIGGER users_email_is_normal AFTER INSERT OR UPDATE OF email ON users
    FOR EACH ROW WHEN (NEW.email <> textgen_normal_email(NEW.email)) EXECUTE FUNCTION textgen_email_is_normal();

UPDATE users SET secret = '' WHERE secret IS NULL;
ALTER TABLE users ALTER COLUMN secret SET NOT NULL;
