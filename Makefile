# `make` lists the targets. Works with GNU make 3.81 (macOS) and newer.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help serve admin stop migrate check-sharing psql monitor test test-browser test-stripe test-clients test-mail test-alerts chaos lint bench attack need-cargo

# Where rustup installs cargo, for shells started before that.
path = PATH="$$PATH:$$HOME/.cargo/bin"; export PATH
# DATABASE_URL, or else the server of scripts/postgres, started if it is not running.
database = DATABASE_URL="$${DATABASE_URL:-$$(scripts/postgres start)}" && export DATABASE_URL
build = cargo build --release --locked
# A folder for mails, unless a mail server is configured.
mails = MAIL_FOLDER="$${MAIL_FOLDER-$$(test -n "$$SMTP_URL" || echo mails)}" && export MAIL_FOLDER
# The built-in engine, unless a model server is configured.
demo = $$(test -n "$$INFERENCE_URL$$EMBEDDINGS_URL$$TRANSCRIBE_URL$$SPEECH_URL$$IMAGES_URL$$RERANK_URL$$MODERATIONS_URL" || echo --demo-engine)
textgen = "$${CARGO_TARGET_DIR:-target}"/release/textgen

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{ printf "  make %-14s %s\n", $$1, $$2 }' Makefile

serve: need-cargo ## build, apply migrations and run the three servers; Ctrl-C stops them
	@$(path); $(database) && $(mails) && $(build) && $(textgen) migrate && exec $(textgen) serve $(demo)

admin: need-cargo ## grant admin rights to an account: make admin EMAIL=you@example.com
	@test -n "$(EMAIL)" || { echo "which account? make admin EMAIL=you@example.com" >&2; exit 1; }
	@$(path); $(database) && $(build) && exec $(textgen) user promote "$(EMAIL)"

stop: ## stop the PostgreSQL that `make serve` and `make test` started
	@scripts/postgres stop; one=$$?; scripts/postgres --test stop && exit $$one

migrate: need-cargo ## apply migrations
	@$(path); $(database) && $(build) && exec $(textgen) migrate

check-sharing: need-cargo ## check that the running servers share one database
	@$(path); $(database) && $(build) && exec $(textgen) check-sharing

psql: ## open psql
	@$(database) && exec scripts/postgres psql

monitor: ## show connections, newest users and users with charges
	@$(database) && exec scripts/postgres psql -X -P pager=off -v ON_ERROR_STOP=1 \
		-c '\echo Connections' -f sql/monitoring/connections.sql \
		-c '\echo Newest users' -f sql/monitoring/newest-users.sql \
		-c '\echo Users with charges' -f sql/monitoring/users-with-charges.sql

test: need-cargo ## run all tests on a PostgreSQL for tests; ARGS="..." is passed to cargo test
	@scripts/install-tools pgbouncer
	@$(path); TEST_DATABASE_URL="$${TEST_DATABASE_URL:-$$(scripts/postgres --test start)}" && export TEST_DATABASE_URL && \
	unset DATABASE_URL && exec cargo test --locked $(ARGS)

test-browser: need-cargo ## run the tests in a headless browser; installs node and chromium if permitted
	@scripts/install-tools chromium node
	@$(path); TEST_DATABASE_URL="$${TEST_DATABASE_URL:-$$(scripts/postgres --test start)}" && export TEST_DATABASE_URL && \
	unset DATABASE_URL && cargo build --locked && cargo build --locked --example stripe && exec tests/browser/run

test-stripe: need-cargo ## run Stripe's library for Python against the Stripe of the tests; installs it in a venv
	@$(path); TEST_DATABASE_URL="$${TEST_DATABASE_URL:-$$(scripts/postgres --test start)}" && export TEST_DATABASE_URL && \
	unset DATABASE_URL && exec tests/stripe/run

test-clients: need-cargo ## run libraries that people use against the servers; installs them in a venv and with npm
	@$(path); TEST_DATABASE_URL="$${TEST_DATABASE_URL:-$$(scripts/postgres --test start)}" && export TEST_DATABASE_URL && \
	unset DATABASE_URL && exec tests/clients/run

test-mail: need-cargo ## send mails to a mail server of Python's; installs it in a venv
	@$(path); TEST_DATABASE_URL="$${TEST_DATABASE_URL:-$$(scripts/postgres --test start)}" && export TEST_DATABASE_URL && \
	unset DATABASE_URL && exec tests/mail/run

test-alerts: need-cargo ## run Prometheus against servers with faults, until each alert has fired; installs it if permitted
	@scripts/install-tools prometheus
	@$(path); TEST_DATABASE_URL="$${TEST_DATABASE_URL:-$$(scripts/postgres --test start)}" && export TEST_DATABASE_URL && \
	unset DATABASE_URL && exec cargo test --locked --test it -- alerts:: --ignored

chaos: need-cargo ## inject faults in random order under load, bill under faults, kill migrations, and simulate budgets and rate limits; SEED=... repeats a run, ROUNDS=..., SEEDS=..., MIGRATION_USERS=..., MIGRATION_DOCUMENTS=... and SCHEDULES=... set the length
	@$(path); TEST_DATABASE_URL="$${TEST_DATABASE_URL:-$$(scripts/postgres --test start)}" && export TEST_DATABASE_URL && \
	unset DATABASE_URL && cargo test --locked --test it chaos::many_faults -- --ignored --nocapture && \
	cargo test --locked --test it usage_reported_at_once::many_seeds -- --ignored --nocapture && \
	cargo test --locked --test it killed_migrations:: -- --ignored --nocapture && \
	exec cargo test --release --locked --lib limits:: -- --ignored --nocapture

lint: need-cargo ## run rustfmt, clippy and, if installed, shellcheck and hadolint
	@$(path); cargo fmt --check && cargo clippy --locked --all-targets -- -D warnings && \
	if command -v shellcheck >/dev/null; then \
		for file in scripts/* tests/browser/run tests/stripe/run tests/clients/run tests/mail/run .ci/run; do \
			[ -f "$$file" ] || continue; \
			case $$(head -n 1 "$$file") in '#!'*sh) shellcheck -xa "$$file" || exit 1 ;; esac; \
		done; \
	fi && \
	if command -v hadolint >/dev/null; then hadolint packaging/Dockerfile; fi

bench: need-cargo ## run benchmarks; ARGS="crowds charges" selects some, ARGS=--help lists them
	@$(path); exec scripts/bench $(ARGS)

attack: need-cargo ## run attacks with others beside them: memory, others' 99th percentile, log-ins; ARGS="zeros readers" selects some
	@$(path); exec scripts/attack $(ARGS)

need-cargo:
	@$(path); command -v cargo >/dev/null || { \
		echo "cargo is missing: install Rust with  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2; exit 1; }
	@command -v cc >/dev/null || { \
		echo "a C compiler is missing: sudo apt-get install gcc libc6-dev, or on macOS: xcode-select --install" >&2; exit 1; }
