-- What a log-in asks for beside the password. There is one kind, `totp`: a code of an authenticator app (RFC 6238), once for an
-- account. A passkey, or an account at an OpenID provider, would be other kinds, of which an account may have several.
CREATE TABLE second_factors (
    id        varchar PRIMARY KEY,
    user_id   varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    kind      varchar NOT NULL,
    secret    bytea NOT NULL,              -- sealed
    counter   bigint NOT NULL DEFAULT 0,   -- the last step whose code was used; only those of later ones are accepted
    created   timestamptz NOT NULL DEFAULT now(),
    confirmed timestamptz                  -- when a first code was right; before that, log-ins do not ask for one
);
CREATE INDEX second_factors_of_user ON second_factors (user_id);
CREATE UNIQUE INDEX second_factors_totp ON second_factors (user_id) WHERE kind = 'totp';

-- Codes that stand in for a second factor that is lost, each once. Here are only their SHA-256 digests.
CREATE TABLE recovery_codes (
    user_id varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    digest  bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    used    timestamptz,
    PRIMARY KEY (user_id, digest)
);

-- With this key secrets of second factors are sealed where ENCRYPTION_KEY is not set: 244 random bits.
ALTER TABLE installation ADD COLUMN second_factor_key bytea NOT NULL
    DEFAULT decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');

-- Servers cache whether an account has one.
CREATE TRIGGER second_factors_changed AFTER UPDATE ON second_factors FOR EACH ROW
WHEN ((OLD.user_id, OLD.confirmed) IS DISTINCT FROM (NEW.user_id, NEW.confirmed))
EXECUTE FUNCTION textgen_notify_owner();
CREATE TRIGGER second_factors_ended AFTER DELETE ON second_factors FOR EACH ROW
EXECUTE FUNCTION textgen_notify_owner();
CREATE TRIGGER second_factors_emptied AFTER TRUNCATE ON second_factors EXECUTE FUNCTION textgen_notify_everybody();
