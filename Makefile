# Everything is done by course_lib/setup/bootstrap.py (which works without make too); `make` lists the targets.
PYTHON ?= python3
BOOTSTRAP = @command -v $(PYTHON) >/dev/null 2>&1 || { echo "set-up: there is no $(PYTHON) on this machine: \
install Python 3.11 or newer (Debian: apt install python3 python3-venv)." >&2; exit 2; }; \
exec $(PYTHON) course_lib/setup/bootstrap.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup book test lab serve clean distclean

help:      ; $(BOOTSTRAP) help
setup:     ; $(BOOTSTRAP) setup
book:      ; $(BOOTSTRAP) book
test:      ; $(BOOTSTRAP) test
lab:       ; $(BOOTSTRAP) lab
serve:     ; $(BOOTSTRAP) serve
clean:     ; $(BOOTSTRAP) clean
distclean: ; $(BOOTSTRAP) distclean
