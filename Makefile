# make demo: try it.  make test: run the tests; test-long: those that take long.  make check: lint and types.
VENV := .venv
PYTEST = $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: setup mosquitto chromium demo test test-long check

setup: $(VENV)/installed

# The broker of live data and its tests: installed where that asks for no password, else named in one line.
mosquitto:
	@if ! PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then sudo=; else sudo='sudo -n'; fi; \
		echo "installing mosquitto (once)"; \
		{ $$sudo apt-get update -qq && $$sudo apt-get install -qq -y mosquitto mosquitto-clients; } >/dev/null 2>&1 || \
		echo "that failed: install it (apt-get install mosquitto mosquitto-clients, or brew install mosquitto), or go without live data"; \
	fi

# The browser that looks at the page in its tests, likewise.
chromium:
	@if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then sudo=; else sudo='sudo -n'; fi; \
		echo "installing chromium (once)"; \
		{ $$sudo apt-get update -qq && $$sudo apt-get install -qq -y chromium; } >/dev/null 2>&1 || \
		echo "that failed: install it (apt-get install chromium), or the page is tested without a browser"; \
	fi

$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with make PYTHON=..."; exit 1; }
	@echo "setting up $(VENV) (once; torch and friends, some minutes)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup mosquitto
	$(VENV)/bin/fml fit --config configs/demo_no_labels.yaml
	$(VENV)/bin/fml personalize --config configs/demo_no_labels.yaml --ckpt_path last --machine all

test: setup mosquitto chromium
	$(PYTEST) -m "not long"

test-long: setup mosquitto chromium
	$(PYTEST) -m long

check: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
