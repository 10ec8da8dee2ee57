-- A charge names none of these columns, so the condition, which takes longer to read than a charge's row to write, is
-- not even looked at.
DROP TRIGGER users_changed ON users;
CREATE TRIGGER users_changed
AFTER UPDATE OF id, email, password_hash, name, profile_url, photo_url, is_subscribed, stripe_id, secret,
    num_self_hosted_instances, suspended, is_admin
ON users FOR EACH ROW
WHEN ((OLD.id, OLD.email, OLD.password_hash, OLD.name, OLD.profile_url, OLD.photo_url, OLD.is_subscribed,
       OLD.stripe_id, OLD.secret, OLD.num_self_hosted_instances, OLD.suspended, OLD.is_admin)
      IS DISTINCT FROM
      (NEW.id, NEW.email, NEW.password_hash, NEW.name, NEW.profile_url, NEW.photo_url, NEW.is_subscribed,
       NEW.stripe_id, NEW.secret, NEW.num_self_hosted_instances, NEW.suspended, NEW.is_admin))
EXECUTE FUNCTION textgen_notify_user();
