# The same few names locally and in .ci/run. Everything is installed into .venv from constraints.txt (hashes pinned).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check bench docs lock clean debian accuracy

demo: $(READY) debian    ## the escalation CE1006 between real hosts, diagnosed; report in demo-out/ (loopback where the lab cannot run)
	@$(BIN)/python -m netdiag.lab.demo --output demo-out

test: $(READY) debian    ## every test; those that need root or a Debian program skip visibly without it
	@$(BIN)/python -m pytest

check: $(READY)          ## lint, format, types, layering
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_layering.py

accuracy: $(READY) debian ## every scenario of the lab with fresh seeds (root, some hours); resumes; docs/reference/accuracy.md
	@$(BIN)/python -m netdiag.lab.accuracy_run --seeds 3

bench: $(READY)          ## timings side by side in one run, printed as ratios
	@$(BIN)/python -m benchmarks

docs: $(READY)           ## regenerate the reference pages from the code
	@$(BIN)/python -m docs.generate

debian:                  ## programs that only some tests need, where this user may install them
	@sh tests/debian/install.sh

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(VENV) || { echo "netdiag: python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock:                    ## pin again (needs uv); the file names no index
	uv pip compile pyproject.toml --extra bench --extra demo --extra test --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --output-file constraints.txt

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache
