-- The fifty users who were charged most this month (UTC); charges are kept in millionths of a dollar.
SELECT id, email, is_subscribed, free_credits,
       charges_monthly,
       round(charges_monthly / 1000000.0, 6) AS dollars
FROM users
WHERE charges_monthly > 0 AND charges_month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date
ORDER BY charges_monthly DESC, id
LIMIT 50;
