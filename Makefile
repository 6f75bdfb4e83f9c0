# Every verb makes the virtual environment first if it is missing, so one command is enough on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: env run test lab notebooks site bench bench-cuda lint clean
.DEFAULT_GOAL := env

env: .venv/installed

# Installed again when what is asked for has changed. Compiled by all cores at once: pip does so one file at a time.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/testing/_internal/' .venv/lib || \
		echo "Some modules could not be compiled ahead. Python compiles them when it needs them."
	touch $@

run: env  # the main job: tokenizer, base, mid, SFT and evaluation on built-in rows, from the notebooks
	$(BIN)/python -m nanolab.course run

test: env  # two tests at a time, each on one thread; a file's tests stay together, the longest files begin
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lab: env  # trusted, so that JupyterLab shows the coloured views at once and not only after a run
	$(BIN)/jupyter trust notebooks/*.ipynb
	$(BIN)/jupyter lab notebooks

notebooks: env  # run every notebook and save it with its outputs; nothing else writes them
	$(BIN)/python -m nanolab.course notebooks

site: env  # the course as HTML pages that open from disk
	$(BIN)/python -m nanolab.site

bench: env  # the short form of the main ones, on built-in rows; benchmarks/RESULTS.md has the long ones
	$(BIN)/python benchmarks/sft_step.py --steps 1 --rounds 2
	$(BIN)/python benchmarks/padding.py
	$(BIN)/python benchmarks/ranks.py
	$(BIN)/python benchmarks/memory.py --budgets 2048
	$(BIN)/python benchmarks/rendering.py
	$(BIN)/python benchmarks/generation.py --vocab_sizes 1024 --rounds 1

# On one CUDA card, reckoned for 80 GB: a d20 on rows of DATA with the tokenizer of TOK. Without them on built-in rows.
DATA ?= toy
TOK ?=
bench-cuda: env  # an SFT step: ours, compiled and not, against the seed's loop and TRL from the same weights
	for task in mixture gsm8k; do \
		CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} $(BIN)/python benchmarks/sft_step.py --device_type cuda \
			--data "$(DATA)" --tokenizer "$(TOK)" --task $$task --depth 20 --vocab_size 65536 --steps 4 --rounds 3 \
			--device_batch_tokens 16384 --ways seed seed_bf16 packed_bf16 packed_compiled_bf16 \
			--trl --trl_settings group_by_length padding_free flash liger || exit 1; \
	done

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  # the environment and caches; data_cache/ is yours
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
