-- The twenty newest users.
SELECT id, email, created, secret AS secret_prefix, is_subscribed, free_credits
FROM users
ORDER BY created DESC NULLS LAST, id
LIMIT 20;
