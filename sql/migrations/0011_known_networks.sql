-- From where a person has signed in: there, the guesses of strangers elsewhere do not lock them out. It outlives the
-- sessions, as who logs out wants to come back.
CREATE TABLE known_networks (
    user_id   varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    network   varchar NOT NULL, -- an IPv4 address, or the first address of an IPv6 /64
    last_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, network)
);
CREATE INDEX known_networks_last_seen ON known_networks (last_seen);

INSERT INTO known_networks (user_id, network, last_seen)
SELECT user_id, address, max(last_seen) FROM sessions WHERE address LIKE '%.%' AND address NOT LIKE '%:%'
GROUP BY user_id, address;
