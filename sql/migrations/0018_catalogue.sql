-- The catalogue: the providers, and the models that clients may name. `textgen models apply` replaces all of it in one
-- transaction. Names are compared byte by byte.
CREATE TABLE providers (
    name                  text COLLATE "C" PRIMARY KEY,
    base_url              text NOT NULL,
    api_key_variable      text,           -- the environment variable that holds the key
    api_key_sealed        bytea,          -- or the key, encrypted; see src/catalogue/seal.rs
    protocols             text[] NOT NULL,
    header_names          text[] NOT NULL DEFAULT '{}',
    header_values         text[] NOT NULL DEFAULT '{}',
    ca_file               text,
    connect_timeout_ms    bigint,         -- these are the server's own settings where they are NULL
    first_byte_timeout_ms bigint,
    idle_timeout_ms       bigint,
    total_timeout_ms      bigint,
    max_concurrent        bigint,         -- NULL for no limit
    CHECK (api_key_variable IS NULL OR api_key_sealed IS NULL),
    CHECK (cardinality(header_names) = cardinality(header_values))
);

CREATE TABLE models (
    name              text COLLATE "C" PRIMARY KEY,
    position          bigint NOT NULL,    -- the order in the file: the first that fits is the default
    max_output_tokens bigint CHECK (max_output_tokens > 0)
);

-- Every name that clients may write, so that no two models share one.
CREATE TABLE model_names (
    name     text COLLATE "C" PRIMARY KEY,
    model    text COLLATE "C" NOT NULL REFERENCES models ON DELETE CASCADE,
    position bigint NOT NULL,
    is_alias boolean NOT NULL
);

CREATE TABLE model_routes (
    model          text COLLATE "C" NOT NULL REFERENCES models ON DELETE CASCADE,
    position       bigint NOT NULL,
    provider       text COLLATE "C" NOT NULL REFERENCES providers,
    upstream_model text NOT NULL,
    weight         bigint NOT NULL CHECK (weight > 0),
    priority       bigint NOT NULL CHECK (priority >= 0),
    PRIMARY KEY (model, position)
);
CREATE INDEX model_routes_provider ON model_routes (provider);

-- Every server holds the catalogue and the prices in memory. Whoever changes them, from whichever program, tells them; a
-- transaction tells them once, however many statements it has.
CREATE FUNCTION textgen_notify_catalogue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('textgen_catalogue', '');
    RETURN NULL;
END $$;

CREATE TRIGGER providers_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON providers
    FOR EACH STATEMENT EXECUTE FUNCTION textgen_notify_catalogue();
CREATE TRIGGER models_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON models
    FOR EACH STATEMENT EXECUTE FUNCTION textgen_notify_catalogue();
CREATE TRIGGER model_names_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON model_names
    FOR EACH STATEMENT EXECUTE FUNCTION textgen_notify_catalogue();
CREATE TRIGGER model_routes_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON model_routes
    FOR EACH STATEMENT EXECUTE FUNCTION textgen_notify_catalogue();
CREATE TRIGGER prices_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION textgen_notify_catalogue();
