.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.PHONY: setup run cluster test test-model torture coverage check fmt lock

BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_MODEL := .venv/.installed-model

# Everything for development, in .venv.
setup: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.lock .ci/python .ci/venv.py
	@echo "installing into .venv"
	@python=$$(.ci/python) && "$$python" .ci/venv.py
	@touch $@

# The gateway on http://127.0.0.1:8000, with the demo model.
run: setup
	@$(BIN)/tidegate serve

# Two gateways over a Redis-compatible server and Postgres, all on this machine, in the folder .cluster.
cluster: export CLUSTER := TIDEGATE_REDIS_URL=redis://127.0.0.1:6380 \
	TIDEGATE_STORE_URL=postgresql://tidegate@127.0.0.1:5433/postgres TIDEGATE_SERVER_DRAIN_SECONDS=3
cluster: setup
	@$(BIN)/honcho start

# The whole suite; before it, the parts whose own tests must reach every branch.
test: setup coverage
	$(BIN)/pytest -n 3

coverage: setup
	$(BIN)/coverage run --data-file=.coverage.protocol --source=protocol -m pytest -q tests/protocol
	$(BIN)/coverage report --data-file=.coverage.protocol --fail-under=100
	$(BIN)/coverage run --data-file=.coverage.core --source=gateway/core -m pytest -q tests/gateway/core
	$(BIN)/coverage report --data-file=.coverage.core --fail-under=100

# A real language model on this machine: some 350 MB are downloaded once.
test-model: $(INSTALLED_MODEL)
	$(BIN)/pytest --override-ini addopts='-ra --strict-markers --import-mode=importlib' tests/real

# Everything that can break breaks, for so long; nothing may be lost, double or hanging.
SECONDS := 60
torture: setup
	$(BIN)/python -m tests.torture --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

$(INSTALLED_MODEL): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[local]'
	@touch $@

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

fmt: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Pin the newest releases that pyproject.toml allows.
lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 \
		--extra openai --extra anthropic --extra ag-ui --extra tokens --extra mcp --extra cluster --group dev --group build \
		--generate-hashes --no-annotate --upgrade --custom-compile-command "make lock" --quiet --output-file requirements.lock
