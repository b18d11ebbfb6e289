# Sets everything up and runs it; each target only wraps what a developer would type.
#   make demo    the device, its reference driver and an echoing backend, no virtual machine needed
#   make test    all tests, guests under QEMU included
# PYTHON=python3.11 chooses the interpreter, VENV=DIR where tox lives.

PYTHON ?= python3
VENV ?= .venv
TOX := $(VENV)/bin/tox

.PHONY: demo test bench docs lab clean

demo: $(TOX)
	$(TOX) run -q -e demo

test: $(TOX) lab
	$(TOX) run -e lint,type,core,all,wheels,fuzz,e2e

bench: $(TOX) lab
	$(TOX) run -e bench

docs: $(TOX)
	$(TOX) run -e docs

# The host programs that the guest lab needs and DPDK, then the lab itself (cached).
lab: $(TOX)
	@missing=; \
	for pair in ip:iproute2 debootstrap:debootstrap unshare:util-linux cc:gcc \
	        dpdk-testpmd:dpdk-dev; do \
	    command -v $${pair%%:*} >/dev/null 2>&1 || missing="$$missing $${pair#*:}"; \
	done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing libc6-dev; \
	    else \
	        echo "not installed:$$missing; tests that need them are skipped" >&2; \
	    fi; \
	fi
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    $(TOX) run -q -e prepare; \
	else \
	    echo "the guest lab is prepared by root on Debian; its tests are skipped" >&2; \
	fi

$(TOX):
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; \
	    else \
	        echo "$(PYTHON) can't make virtual environments: install python3-venv" >&2; exit 1; \
	    fi; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check 'tox>=4.11'

clean:
	rm -rf $(VENV) .tox
