# make run     set up and start Peyk at http://localhost:5000
# make demo    the same with some channels and people who talk, to look at; its data is in data/demo
# make test    set up and run all tests, on real servers
# make check   what a reviewer would ask: format, lint, types, known vulnerabilities
# make lock    write the locks anew, after a change of the lists of requirements; the installations follow
# make bench   Peyk under load: the scenarios of docs/performance.md
# make bench-peers  Peyk and other servers under the same load, side by side
# make hostile  floods, and what the ordinary clients of a server notice of them: three quarters of an hour
# make faults  kills, pauses and cuts, and the check that nothing was lost, doubled or reordered: fourteen minutes
# make clean   remove everything these made; data/ stays
#
# Python packages go into .venv, Node's beside the example that needs them; Debian packages only for tests and bench, and
# only if missing.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CODE := $(wildcard redis_config.py app.py chat pipeline bridge bench tests)
# Debian keeps it out of the PATH, under its version.
POSTGRES := $(firstword $(wildcard /usr/lib/postgresql/*/bin/postgres) postgres)
NODE_PROGRAMS := examples/node tests/sdks
OLD_SDKS := $(patsubst tests/sdks/python-%.txt,.venv/sdks/%/stamp,$(wildcard tests/sdks/python-*.txt))
RABBITMQ := /usr/lib/rabbitmq/bin/rabbitmq-server
PHP_REDIS := $(firstword $(wildcard /etc/php/*/cli/conf.d/*-redis.ini) php-redis)
PERSIAN_FONT := /usr/share/fonts/truetype/noto/NotoSansArabic-Regular.ttf

.PHONY: run demo test check lock bench bench-peers hostile faults clean

run: .venv/run
	exec $(BIN)/python app.py serve

demo: .venv/run
	DATA_DIR=$${DATA_DIR:-data/demo} exec $(BIN)/python app.py demo

test: .venv/dev $(OLD_SDKS)
	@$(call debian,redis-server:redis-server redis-cli:redis-tools chromium:chromium \
		$(PERSIAN_FONT):fonts-noto-core tmux:tmux curl:curl $(POSTGRES):postgresql $(RABBITMQ):rabbitmq-server \
		/usr/sbin/pgbouncer:pgbouncer node:nodejs npm:npm php:php-cli $(PHP_REDIS):php-redis)
	@for program in $(NODE_PROGRAMS); do \
		test $$program/node_modules/.package-lock.json -nt $$program/package-lock.json \
			|| (cd $$program && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error) || exit 1; \
	done
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/python -m tests.locks
	$(BIN)/python -m tests.audit

lock: .venv/run
	$(BIN)/python -c 'import uv' 2>/dev/null || $(PIP) install "$$(grep ^uv== requirements-dev.txt)"
	$(BIN)/python -m tests.locks write

bench: .venv/dev
	@$(call debian,cc:gcc /usr/include/stdio.h:libc6-dev $(RABBITMQ):rabbitmq-server $(POSTGRES):postgresql)
	$(BIN)/python -m bench $(ARGS)
	$(BIN)/python -m bench.sinks
	$(BIN)/python -m bench.bridge

bench-peers: .venv/dev
	@$(call debian,cc:gcc /usr/include/stdio.h:libc6-dev node:nodejs npm:npm)
	$(BIN)/python -m bench.peers $(ARGS)

hostile: .venv/dev
	@$(call debian,cc:gcc /usr/include/stdio.h:libc6-dev)
	$(BIN)/python -m bench.hostile $(ARGS)

faults: .venv/dev
	@$(call debian,$(RABBITMQ):rabbitmq-server $(POSTGRES):postgresql)
	$(BIN)/python -m tests.faults --seconds 180 $(ARGS)
	$(BIN)/python -m tests.faults --sinks --seconds 30
	$(BIN)/python -m tests.faults.rabbit
	$(BIN)/python -m tests.faults.openapi

clean:
	rm -rf .venv $(NODE_PROGRAMS:%=%/node_modules) bench/.build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# A stamp is there only while the installation behind it is complete; without it, .venv is made anew.
.venv/run: requirements.lock
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Peyk needs Python 3.11 or newer with venv. On Debian: sudo apt-get install python3-venv;" \
			"or name another Python: make PYTHON=/path/to/python3.11"; exit 1; } >&2
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --require-hashes -r requirements.lock
	@touch $@

.venv/dev: requirements-dev.lock .venv/run
	@rm -f .venv/run
	$(PIP) install --require-hashes -r requirements-dev.lock || { touch .venv/run; exit 1; } # pip undoes what fails, not what is killed
	@touch .venv/run $@

# Older client libraries that tests/sdks tries: each in a directory of its own, since they need an older websockets.
.venv/sdks/%/stamp: tests/sdks/python-%.txt .venv/dev
	@rm -rf $(@D)
	$(PIP) install --no-deps --target $(@D) -r $<
	@touch $@

# debian(thing:package …): install the packages whose command or file is missing, if we may. While apt runs, a policy-rc.d
# keeps Debian from starting redis-server and postgresql as services: the tests start their own.
define debian
missing=""; for pair in $(1); do thing="$${pair%%:*}"; \
  command -v "$$thing" >/dev/null || test -e "$$thing" || missing="$$missing $${pair#*:}"; done; \
test -n "$$missing" || exit 0; \
if [ "$$(id -u)" = 0 ]; then sudo=""; else sudo="sudo -n"; fi; \
command -v apt-get >/dev/null && $$sudo true 2>/dev/null || { \
  echo "Please run: sudo apt-get update && sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; }; \
echo "Installing Debian packages:$$missing"; \
$$sudo sh -ec 'policy=/usr/sbin/policy-rc.d; \
  if [ ! -e $$policy ]; then \
    trap "rm -f $$policy" EXIT; trap "exit 1" INT TERM; \
    printf "#!/bin/sh\nexit 101\n" >$$policy; chmod +x $$policy; \
  fi; \
  apt-get update -qq; \
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$$@"' sh $$missing </dev/null
endef
