# Two commands for people: `make demo` draws pictures, `make test` runs the tests.
# Each makes its own virtual environment in .venv and installs what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint full test-comfyui clean

# torch's CPU build comes first: any other package would pull the large GPU build.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m multilingual_diffusion demo --out output/demo

# Two workers, a file each at a time; one thread each, so that they do not fight over two cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

full: $(READY)
	$(BIN)/python -m pytest -m full -s

lint: $(READY)
	$(BIN)/python -m pip install --quiet -e ".[lint]"
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

# The checkout's requirements.txt and ours must be installed where COMFYUI_PYTHON points; left out,
# that is the interpreter of .venv: .venv/bin/python -m pip install -r $COMFYUI_DIR/requirements.txt
test-comfyui: $(READY)
	@if [ -z "$(COMFYUI_DIR)" ]; then echo "skipped: set COMFYUI_DIR to a ComfyUI checkout"; \
	else OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "comfyui and not full" tests/comfyui; fi

clean:
	rm -rf $(VENV) build dist output *.egg-info
