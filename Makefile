# make demo, make test, make test-browser, make lab, make docs, make site, make bench, make clean. On Windows: the plain commands in README.md.
#
# PYTHON             the Python to make .venv with (python3)
# LESSONS            what `make test-browser` walks through ('00 01 04 05 12')
# UV_TORCH_BACKEND   which torch to install; cpu saves 4 GB on a Linux machine without a GPU. Unset, the index decides.

PYTHON ?= python3
BIN := .venv/bin
MIN := $(shell sed -n 's/^min_python *= *//p' settings.ini)

# uv does not read pip's configuration: hand the user's index on to it, unless uv has been told another.
UV = index="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}}}"; \
	if [ -n "$$index" ]; then UV_DEFAULT_INDEX="$$index"; export UV_DEFAULT_INDEX; fi; \
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt

.PHONY: help demo test test-browser lab docs site bench constraints clean

help:
	@echo 'make demo         set up .venv, run lesson 01 and show its result'
	@echo 'make lab          the lessons in JupyterLab'
	@echo 'make test         the tests of the notebooks, then pytest'
	@echo 'make test-browser JupyterLab and the site, in Chromium'
	@echo 'make docs         the modules and README.md from the notebooks'
	@echo 'make site         the course as web pages, in build/site'
	@echo 'make bench        measure, and write benchmarks/results.md'
	@echo 'make constraints  renew the versions last tested together'
	@echo 'make clean        remove .venv, what was built and runs/; the downloaded assets stay'

demo: .venv/.course
	@$(BIN)/tlcourse demo

lab: .venv/.lab
	@$(BIN)/tlcourse lab

# Two notebooks at a time, and two files of tests, each on one core: with several threads each they would only wait for one another.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 --do-print --timing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# In a real browser: lessons as a learner walks through them, and the site on a phone and a desk. Ten minutes for all five lessons.
test-browser: .venv/.browser
	LESSONS="$(LESSONS)" $(BIN)/python -m pytest -rs $(or $(PART),tests/browser)

docs: .venv/.dev
	$(BIN)/nbdev-export
	$(BIN)/python tools/readme.py

site: .venv/.dev
	$(BIN)/python site/pages.py

bench: .venv/.dev
	$(BIN)/python benchmarks/run.py

constraints: .venv/.uv
	$(BIN)/uv pip compile --quiet --upgrade --python-version $(MIN) --all-extras --no-header --no-annotate --refresh-package tlcourse setup.py -o constraints.txt
	PATH="$(BIN):$$PATH" $(BIN)/python tools/platforms.py

clean:
	rm -rf .venv build dist tlcourse.egg-info runs .pytest_cache .ruff_cache _proc _docs

# Each stamp is touched when its step is done, so that an interrupted step is repeated and a finished one is not.
.venv/.uv:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] < tuple(map(int, "$(MIN)".split("."))))' 2>/dev/null \
		|| { echo 'tlcourse needs Python $(MIN) or newer; name one with: make demo PYTHON=/path/to/python3'; exit 1; }
	@"$(PYTHON)" -c 'import platform as p, sys; sys.exit(p.system() == "Darwin" and (p.machine() == "x86_64" or int(p.mac_ver()[0].split(".")[0]) < 14))' \
		|| { echo 'PyTorch has no build for Intel Macs and macOS before 14: take Linux, Windows, or a Mac with Apple silicon and macOS 14 or newer'; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

.venv/.course: .venv/.uv settings.ini setup.py pyproject.toml constraints.txt
	@echo 'Installing tlcourse and what it needs into .venv'
	@$(UV) -e .
	@touch $@

.venv/.lab: .venv/.course
	@echo 'Installing what the lessons on text, speech, export and frameworks need'
	@$(UV) -e '.[text,speech,deploy,fairness,medical,frameworks]'
	@touch $@

.venv/.dev: .venv/.course
	@echo 'Installing what the tests need'
	@$(UV) -e '.[dev,text,speech,deploy,fairness,medical,frameworks,site]'
	@touch $@

.venv/.browser: .venv/.dev
	@echo 'Installing what drives the browser; the browser itself is yours'
	@$(UV) -e '.[browser]'
	@touch $@
