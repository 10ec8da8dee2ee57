-- The fifty users who were charged most this month; charges are kept in millionths of a dollar.
SELECT id, email, is_subscribed, free_credits,
       charges_monthly,
       round(charges_monthly / 1000000.0, 6) AS dollars
FROM users
WHERE charges_monthly > 0
ORDER BY charges_monthly DESC, id
LIMIT 50;
