# `make demo` and `make test` do all the set-up that they need, from a clone, with Debian's packages and Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo watch test nightly check system format proto bench clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.camera: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[camera,http,track]'
	touch $@

demo: $(VENV)/.base  ## serve, stream a real video, print the summary, write the annotated video and a report
	$(BIN)/foveate demo

URL ?= /dev/video0
watch: $(VENV)/.camera  ## see live what the model sees: make watch URL=rtsp://user:password@camera/stream
	@$(BIN)/foveate watch "$(URL)" --http 127.0.0.1:8080

test: system check  ## the checks, then the test suite
	$(BIN)/python -m pytest

nightly: $(VENV)/.dev  ## the exports and compiles of every kind of model, which take many minutes; new random examples
	$(BIN)/python -m pytest -m nightly
	$(BIN)/python -m pytest --hypothesis-profile search tests/unit

system:  ## Debian packages that some tests need: an RTSP server, a browser, Prometheus, an MQTT broker
	tests/install_system_packages.sh

check: $(VENV)/.dev  ## ruff and mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## put the sources into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.dev  ## generate the stubs anew
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto proto/foveate/proto/*.proto

bench: $(VENV)/.dev  ## what the service adds to the engine's time, and how soon it starts, as JSON
	$(BIN)/python tests/bench/added_latency.py
	$(BIN)/python tests/bench/startup.py

clean:  ## remove what was built here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-output
