# A fresh machine needs python3 (3.11 or later), git, make and coreutils: the rest is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXIM := .exim/usr/sbin/exim4

# Without compiled modules every command would compile its own again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test bench mta exim matrix soak plants crash fuzz lint audit docs clean

demo: $(VENV)/.installed
	$(BIN)/vmctl demo

# Most tests wait for real processes most of the time; those of the matrix have short timers, and those with mail servers
# in between start many processes: they want room.
ROOMY := tests/test_matrix.py tests/test_through_mail_servers.py
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 4 --dist loadgroup $(addprefix --ignore ,$(ROOMY))
	$(BIN)/python -m pytest -q -n 2 $(ROOMY)

# make mta [SEED=1] [SECONDS=120]: what takes minutes with real mail servers between two hosts. Needs root and Postfix.
mta: $(VENV)/.installed-dev
	cd tests && VMCTL_MTA_SEED=$(or $(SEED),1) VMCTL_MTA_SECONDS=$(or $(SECONDS),120) PYTHONPATH=.. \
	  ../$(BIN)/python -m pytest -q -s mta/long_mail_servers.py

# Debian's Exim, unpacked and not installed, as a host has one mail server only; its libraries have to be there.
exim: $(EXIM)

$(EXIM):
	mkdir -p .exim
	cd .exim && apt-get download exim4-daemon-light && dpkg -x exim4-daemon-light_*.deb . && rm exim4-daemon-light_*.deb
	chmod u-s $@
	touch $@

# make matrix [REST=1] [ONLY='dual-active killed']: the matrix of failures in both modes, with etcd where it is installed,
# in network namespaces where root; REST is what `make test` does not play. Prints its table.
matrix: $(VENV)/.installed-dev
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m matrix $(if $(REST),--rest) $(if $(ONLY),--only '$(ONLY)')

# make bench [ROWS=first,later] [RUNS=5] [PART=0.1] [LARGE=1] [JSON=FILE] [WHERE=FOLDER]: vmctl beside rsync, unison and lsyncd,
# as far as they are installed, on stores of realistic size; PART makes them so much smaller. Prints the table of
# docs/performance.md.
bench: $(VENV)/.installed-dev
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m benchmarks $(if $(ROWS),--rows $(ROWS)) $(if $(RUNS),--runs $(RUNS)) \
	  $(if $(PART),--part $(PART)) $(if $(LARGE),--large) $(if $(JSON),--json $(abspath $(JSON))) \
	  $(if $(WHERE),--where $(abspath $(WHERE)))

# make soak SEEDS=10000 [FROM=0] [JOBS=2] [SECONDS=7200] [ROLES=1]: schedules of the simulation, of data or of roles, from
# where the last run stopped.
soak: $(VENV)/.installed-dev
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m simulation $(if $(ROLES),--roles) soak \
	  --state ../.soak$(if $(ROLES),-roles) \
	  $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FROM),--from $(FROM)) $(if $(JOBS),--jobs $(JOBS)) \
	  $(if $(SECONDS),--seconds $(SECONDS))

# Every bug that is planted into the product, for data and for roles: each has to be found.
plants: $(VENV)/.installed-dev
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m simulation plant
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m simulation --roles plant

# Every durable step of every story, also where it waits for the disk, and each start after it killed, too.
crash: $(VENV)/.installed-dev
	PYTHONPATH=tests $(BIN)/python -m crash_points --everywhere $(STORIES)

# make fuzz [SECONDS=60] [TARGET=mail]: every entrance, or one, for so long each. Prints a table; findings lie in .fuzz/found.
fuzz: $(VENV)/.installed-fuzz
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(TARGET),--target $(TARGET))

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is known against the least versions that pyproject.toml allows, and against those that are installed here; it asks
# the database of advisories of PyPI. Where that cannot be reached, docs/dependencies.md is what was looked up.
audit: $(VENV)/.installed-dev
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python docs/least.py > $(VENV)-audit/least.txt
	$(VENV)-audit/bin/pip-audit --strict --requirement $(VENV)-audit/least.txt --no-deps --disable-pip
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)-audit/here.txt
	$(VENV)-audit/bin/pip-audit --strict --requirement $(VENV)-audit/here.txt --no-deps --disable-pip

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) $(VENV)-audit build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-fuzz: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]'
	touch $@ $(VENV)/.installed-dev $(VENV)/.installed
