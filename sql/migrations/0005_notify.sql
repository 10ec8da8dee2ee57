-- Every server caches who may do what. Whoever changes that, from whichever program, tells them: the payload is the
-- user's id. A charge, a last-used stamp or a session that slides on changes nothing of it and stays silent.
CREATE FUNCTION textgen_notify_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('textgen_auth', OLD.id);
    RETURN NULL;
END $$;

CREATE FUNCTION textgen_notify_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('textgen_auth', OLD.user_id);
    RETURN NULL;
END $$;

CREATE TRIGGER users_changed AFTER UPDATE ON users FOR EACH ROW
WHEN ((OLD.id, OLD.email, OLD.password_hash, OLD.name, OLD.profile_url, OLD.photo_url, OLD.is_subscribed,
       OLD.stripe_id, OLD.secret, OLD.num_self_hosted_instances)
      IS DISTINCT FROM
      (NEW.id, NEW.email, NEW.password_hash, NEW.name, NEW.profile_url, NEW.photo_url, NEW.is_subscribed,
       NEW.stripe_id, NEW.secret, NEW.num_self_hosted_instances))
EXECUTE FUNCTION textgen_notify_user();

CREATE TRIGGER users_deleted AFTER DELETE ON users FOR EACH ROW
EXECUTE FUNCTION textgen_notify_user();

CREATE TRIGGER sessions_changed AFTER UPDATE ON sessions FOR EACH ROW
WHEN (OLD.user_id <> NEW.user_id OR OLD.digest <> NEW.digest OR NEW.expires < OLD.expires)
EXECUTE FUNCTION textgen_notify_owner();

CREATE TRIGGER sessions_ended AFTER DELETE ON sessions FOR EACH ROW
EXECUTE FUNCTION textgen_notify_owner();

CREATE TRIGGER api_keys_changed AFTER UPDATE ON api_keys FOR EACH ROW
WHEN ((OLD.user_id, OLD.digest, OLD.expires, OLD.revoked) IS DISTINCT FROM
      (NEW.user_id, NEW.digest, NEW.expires, NEW.revoked))
EXECUTE FUNCTION textgen_notify_owner();

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys FOR EACH ROW
EXECUTE FUNCTION textgen_notify_owner();

-- TRUNCATE fires no trigger for a row; '*' stands for everybody.
CREATE FUNCTION textgen_notify_everybody() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('textgen_auth', '*');
    RETURN NULL;
END $$;

CREATE TRIGGER users_emptied AFTER TRUNCATE ON users EXECUTE FUNCTION textgen_notify_everybody();
CREATE TRIGGER sessions_emptied AFTER TRUNCATE ON sessions EXECUTE FUNCTION textgen_notify_everybody();
CREATE TRIGGER api_keys_emptied AFTER TRUNCATE ON api_keys EXECUTE FUNCTION textgen_notify_everybody();

-- In the Python system users.secret was the secret itself, and was written and rotated there by hand. Who does so still
-- is understood: the default key is revoked, the text becomes the new one, and the column keeps what may be seen of it.
-- Our own rotations make the key first, and write a prefix that is known by then.
CREATE FUNCTION textgen_secret_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    shown varchar := '';
BEGIN
    IF EXISTS (SELECT FROM api_keys
               WHERE user_id = NEW.id AND is_default AND revoked IS NULL AND prefix = NEW.secret)
    THEN
        RETURN NULL;
    END IF;
    UPDATE api_keys SET revoked = now() WHERE user_id = NEW.id AND is_default AND revoked IS NULL;
    -- What is shorter could be guessed, or is what may be seen of a former secret.
    IF length(NEW.secret) >= 20 THEN
        INSERT INTO api_keys (id, user_id, name, prefix, digest, is_default)
        VALUES ('key_' || replace(gen_random_uuid()::text, '-', ''), NEW.id, 'default', left(NEW.secret, 6) || '…',
                sha256(convert_to(NEW.secret, 'UTF8')), true)
        ON CONFLICT (digest) DO NOTHING;
        IF FOUND THEN
            shown := left(NEW.secret, 6) || '…';
        END IF;
    END IF;
    IF NEW.secret <> shown THEN
        UPDATE users SET secret = shown WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER users_secret_made AFTER INSERT ON users FOR EACH ROW
WHEN (length(NEW.secret) >= 20)
EXECUTE FUNCTION textgen_secret_by_hand();

CREATE TRIGGER users_secret_written AFTER UPDATE OF secret ON users FOR EACH ROW
WHEN (OLD.secret <> NEW.secret)
EXECUTE FUNCTION textgen_secret_by_hand();
