-- What a key is limited to; NULL for no limit.
ALTER TABLE api_keys
    ADD COLUMN models      text[], -- the models that it may call
    ADD COLUMN permissions text[], -- of models, documents, account and admin; NULL for all but the last
    ADD COLUMN addresses   text[]; -- the networks that it may be used from

DROP TRIGGER api_keys_changed ON api_keys;
CREATE TRIGGER api_keys_changed AFTER UPDATE ON api_keys FOR EACH ROW
WHEN ((OLD.user_id, OLD.digest, OLD.expires, OLD.revoked, OLD.budget_id, OLD.models, OLD.permissions, OLD.addresses)
      IS DISTINCT FROM
      (NEW.user_id, NEW.digest, NEW.expires, NEW.revoked, NEW.budget_id, NEW.models, NEW.permissions, NEW.addresses))
EXECUTE FUNCTION textgen_notify_owner();
