-- Whether there are any is asked after each log-in that fails.
CREATE INDEX users_with_bcrypt ON users ((true)) WHERE password_hash LIKE '$2%';
