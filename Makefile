# Two commands on a fresh machine. PYTHON=python3.12 make quickstart takes another interpreter.
PYTHON ?= python3
VENV ?= .venv

.PHONY: quickstart quickstart-dit emoji-dit test check

quickstart: $(VENV)/installed  ## install, then distil an adapter on the model inside the package
	$(VENV)/bin/sunlab fit --config configs/quickstart.yaml

quickstart-dit: $(VENV)/installed  ## the same on a transformer with rectified flow; its trajectories are made once
	$(VENV)/bin/sunlab data trajectories --config configs/emoji/trajectories.yaml model.base=emoji-dit \
		'teacher.guidance=[3.0]' --out runs/trajectories-dit --count 640
	$(VENV)/bin/sunlab fit --config configs/quickstart_dit.yaml

# The whole recipe of emoji-dit (docs/lab.md): shards, base, sharpening, its measures, trajectories, SUN, evaluation. What is
# finished is not made again, and a training that was interrupted goes on; `make -n emoji-dit` prints what is left to do.
RUNS ?= runs
LAB ?= data/emoji/lab
COUNT ?= 640
MEASURE ?= --w 2 3 4 --count 128 --control 32
# further words of every sunlab command
OPTIONS ?=
DIT := $(RUNS)/teacher_dit_sharp/export
SUNLAB := $(VENV)/bin/sunlab
WORDS = run.dir=$(RUNS) $(OPTIONS)
PICTURES = 'data.source.urls=[$(LAB)/train-*.tar.gz]' data.cache=$(RUNS)/cache

emoji-dit: $(RUNS)/teacher_dit_sharp/measures.txt $(RUNS)/evaluate_dit/done  ## train and evaluate emoji-dit from nothing

$(LAB)/manifest.json: | $(VENV)/installed-for-lab
	$(VENV)/bin/python tools/make_emoji_shards.py --out $(LAB) --names tools/emoji/lab.txt --variants 128 --gzip

$(RUNS)/dit_start/done:
	rm -rf $(@D) && mkdir -p $(RUNS) && cp -r sunlab/lab/assets/emoji-sd $(@D) && rm -r $(@D)/unet
	cp -r configs/emoji/model_dit/. $(@D)
	touch $@

$(RUNS)/teacher_dit/done: | $(LAB)/manifest.json $(RUNS)/dit_start/done
	$(SUNLAB) fit --resume auto --config configs/emoji/teacher_dit.yaml model.base=$(RUNS)/dit_start $(PICTURES) $(WORDS)
	touch $@

$(RUNS)/teacher_dit_sharp/done: | $(RUNS)/teacher_dit/done
	$(SUNLAB) fit --resume auto --config configs/emoji/teacher_dit_sharp.yaml model.base=$(RUNS)/teacher_dit/export \
		$(PICTURES) $(WORDS)
	touch $@

$(RUNS)/teacher_dit_sharp/measures.txt: | $(RUNS)/teacher_dit_sharp/done
	$(VENV)/bin/python tools/measure_base.py $(DIT) $(MEASURE) --picture $(@D)/grid.png > $@.part
	mv $@.part $@

$(RUNS)/emoji_dit_trajectories/done: | $(RUNS)/teacher_dit_sharp/done
	$(SUNLAB) data trajectories --config configs/emoji/trajectories.yaml model.base=$(DIT) \
		'teacher.guidance=[3.0]' --out $(@D) --count $(COUNT) $(WORDS)
	touch $@

$(RUNS)/sun_dit/done: | $(RUNS)/emoji_dit_trajectories/done
	$(SUNLAB) fit --resume auto --config configs/quickstart_dit.yaml run.name=sun_dit model.base=$(DIT) \
		data.source.path=$(RUNS)/emoji_dit_trajectories $(WORDS)
	touch $@

$(RUNS)/evaluate_dit/done: | $(RUNS)/sun_dit/done
	$(SUNLAB) evaluate --config configs/emoji/evaluate_dit.yaml model.base=$(DIT) 'evaluate.bases=[$(DIT)]' \
		evaluate.variants.0.adapter=$(RUNS)/sun_dit/export/adapter.safetensors $(WORDS)
	touch $@

test: $(VENV)/installed-for-tests  ## install what tests need, then run them
	$(VENV)/bin/python -m pytest

check:  ## everything a change must pass, in an environment of its own
	PYTHON=$(PYTHON) .ci/run

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e .
	touch $@

$(VENV)/installed-for-lab: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[tools,evaluate]'
	touch $@

$(VENV)/installed-for-tests: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[test]'
	touch $@
