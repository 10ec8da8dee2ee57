-- What an account is limited to, all of its keys and sessions together; NULL for no limit.
ALTER TABLE users
    ADD COLUMN models    text[], -- the models that may be called
    ADD COLUMN addresses text[]; -- the networks that it may be used from

DROP TRIGGER users_changed ON users;
CREATE TRIGGER users_changed
AFTER UPDATE OF id, email, password_hash, name, profile_url, photo_url, is_subscribed, stripe_id, secret,
    num_self_hosted_instances, suspended, is_admin, budget_id, balance_id, rate_id, models, addresses
ON users FOR EACH ROW
WHEN ((OLD.id, OLD.email, OLD.password_hash, OLD.name, OLD.profile_url, OLD.photo_url, OLD.is_subscribed,
       OLD.stripe_id, OLD.secret, OLD.num_self_hosted_instances, OLD.suspended, OLD.is_admin, OLD.budget_id,
       OLD.balance_id, OLD.rate_id, OLD.models, OLD.addresses)
      IS DISTINCT FROM
      (NEW.id, NEW.email, NEW.password_hash, NEW.name, NEW.profile_url, NEW.photo_url, NEW.is_subscribed,
       NEW.stripe_id, NEW.secret, NEW.num_self_hosted_instances, NEW.suspended, NEW.is_admin, NEW.budget_id,
       NEW.balance_id, NEW.rate_id, NEW.models, NEW.addresses))
EXECUTE FUNCTION textgen_notify_user();
