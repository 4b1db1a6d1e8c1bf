PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-vllm mutants lint clean

demo: .venv/.installed
	$(BIN)/rlaif run configs/quickstart.yaml

test: .venv/.installed
	$(BIN)/pytest

test-slow: .venv/.installed
	$(BIN)/pytest -m slow

# Faults put in on purpose, one at a time, and whether the tests notice (tests/mutants).
mutants: .venv/.installed
	$(BIN)/python -m tests.mutants

# In an environment of its own: vLLM asks for other versions than the rest (see tests_vllm/requirements.txt).
test-vllm: .venv-vllm/.installed
	.venv-vllm/bin/python -m pytest tests_vllm

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("rlaif needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,openai,dev]'
	@touch $@

.venv-vllm/.installed: tests_vllm/requirements.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

clean:
	rm -rf .venv .venv-vllm runs
