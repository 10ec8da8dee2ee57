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
