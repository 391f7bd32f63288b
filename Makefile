# Two commands on a fresh machine. PYTHON=python3.12 make quickstart takes another interpreter.
PYTHON ?= python3
VENV ?= .venv

.PHONY: quickstart quickstart-dit test check

quickstart: $(VENV)/installed  ## install, then distil an adapter on the model inside the package
	$(VENV)/bin/sunlab fit --config configs/quickstart.yaml

quickstart-dit: $(VENV)/installed  ## the same on a transformer with rectified flow; its trajectories are made once
	$(VENV)/bin/sunlab data trajectories --config configs/emoji/trajectories.yaml model.base=emoji-dit \
		--out runs/trajectories-dit --count 640
	$(VENV)/bin/sunlab fit --config configs/quickstart_dit.yaml

test: $(VENV)/installed-for-tests  ## install what tests need, then run them
	$(VENV)/bin/python -m pytest

check:  ## everything a change must pass, in an environment of its own
	PYTHON=$(PYTHON) .ci/run

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e .
	touch $@

$(VENV)/installed-for-tests: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[test]'
	touch $@
