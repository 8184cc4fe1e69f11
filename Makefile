# The two that matter: `make run` (the gateway with its sandbox, ready to try) and `make test` (everything).
# Both set up what they need: a virtual environment in .venv, and for the tests Debian's packages through apt where
# that is allowed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRIAL_ARGS ?= tests
DATA ?= data

.PHONY: run test crash lint check unit packages bench clean help

help:
	@echo "make run    start the gateway with its sandbox; then open http://127.0.0.1:8080/"
	@echo "make test   lint, types and all tests"
	@echo "make crash  the crash tests in their long form (some ten minutes; power cuts need root)"
	@echo "make bench  measure throughput, latency, memory (some minutes)"
	@echo "make clean  remove what make has made"

run: $(VENV)/.ready
	@mkdir -p -m 700 $(DATA)
	@echo "Page: http://127.0.0.1:8080/    Try:  printf 'T21.5H048' | nc -q0 127.0.0.1 50000    End: Ctrl-C"
	$(BIN)/twistd -n --pidfile= --logger tbgw.logs.text tbgw -c etc/ --data-dir $(DATA)

test: $(VENV)/.ready-test packages $(VENV)-sdk/.ready
	$(MAKE) --no-print-directory lint
	$(BIN)/python tools/run_tests.py $(TRIAL_ARGS)

unit: $(VENV)/.ready-test
	$(BIN)/python tools/run_tests.py $(TRIAL_ARGS)

# kill -9, power cut, full disk, I/O errors, broker and network failing: hundreds of rounds, each telling what it found.
crash: $(VENV)/.ready-test packages
	TBGW_CRASH=long $(BIN)/python tools/run_tests.py tests.crash

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/mypy

check: $(VENV)/.ready
	$(BIN)/tbgw check --strict -c etc/

bench: $(VENV)/.ready-test packages
	$(BIN)/python -m bench.run

# The real servers and clients that the tests speak with. Without apt, or without the right to use it, the tests that
# need a missing one are skipped, each saying so.
packages:
	@sh tools/packages.sh mosquitto mosquitto-clients netcat-openbsd socat chromium chromium-driver

# The stamp comes last, so that an interrupted set-up begins anew.
$(VENV)/.made:
	rm -rf $(VENV)
	sh tools/venv.sh $(PYTHON) $(VENV)
	@touch $@

# Editable in setuptools' "compat" way: the only one in which twistd finds a plugin from a checkout.
$(VENV)/.ready: $(VENV)/.made setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable . --config-settings editable_mode=compat
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[test]' --config-settings editable_mode=compat
	@touch $@

# ThingsBoard's own SDK, which the sandbox is tried with: its paho would shadow ours, so that it lives by itself. The
# tests that need it are skipped where it cannot be had.
$(VENV)-sdk/.ready: $(VENV)/.made tests/sdk/requirements.txt
	@rm -rf $(VENV)-sdk
	@{ sh tools/venv.sh $(PYTHON) $(VENV)-sdk && $(VENV)-sdk/bin/pip install --quiet -r tests/sdk/requirements.txt && touch $@; } \
	  || { rm -rf $(VENV)-sdk; echo "ThingsBoard's SDK cannot be had: its tests are skipped"; }

clean:
	rm -rf $(VENV) $(VENV)-sdk build *.egg-info _trial_temp* .mypy_cache .ruff_cache .hypothesis twisted/plugins/dropin.cache
