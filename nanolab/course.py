"""Beside the line: the course's own d4, and running its notebooks.

    python -m nanolab.course run           the main job: train and grade the d4 from the training notebooks
    python -m nanolab.course notebooks     run every notebook in order and save it with its outputs
    python -m nanolab.course notebooks 00 08       only these, with the checkpoints that the others have left

`recipe` is the one place with the settings of the d4 that the course trains on a laptop; `ensure_checkpoint` lets a
notebook that needs a trained model start anywhere.
"""

import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from nanolab import show
from nanolab.batch import StepDataset
from nanolab.checkpoint import find_checkpoint, read_meta
from nanolab.grades import side_by_side
from nanolab.jobs import Job, run, start, tokenizer_dir, train_tokenizer
from nanolab.paths import CLONE, NO_CLONE, cache_dir, shown
from nanolab.settings import BaseConfig, JobConfig, MidConfig, SFTConfig, TokenizerConfig
from nanolab.tasks import sft_mixture
from nanolab.tokenizer import FILE_NAME as TOKENIZER_FILE
from nanolab.tokenizer import Tokenizer

NOTEBOOKS = CLONE / "notebooks"
TRAINING_NOTEBOOKS = ("09_base_and_mid.ipynb", "10_sft.ipynb")
NOT_FOR_TERMINALS = ("Executing Cell", "Ending Cell", "<IPython.core", "<Figure", "<nanolab")  # in papermill's log
FULL_RUN, TAG_OF_FULL_RUN = "15", "quick"
ONLY_LOOK = ("01", "02", "03", "04", "05", "06")  # neither train nor measure seconds: two of them at a time
RAN = "nanolab_ran"  # where a saved notebook keeps the digest of the code that its outputs are of
STAGES = {"base": BaseConfig, "mid": MidConfig, "sft": SFTConfig}
PARENTS = {"mid": "base", "sft": "mid"}  # the stage whose checkpoint a stage starts from

# What a laptop can do in a few minutes: a few hundred small steps instead of nanochat's thousands of large ones, and
# small micro-batches, which measured faster than larger ones on a processor (LOG.md, 2026-11-23).
STREAM = {"max_seq_len": 256, "device_batch_size": 4, "total_batch_size": 2048, "eval_tokens": 16_384}
RECIPE = {
    "base": {**STREAM, "num_iterations": 100},
    "mid": {**STREAM, "num_iterations": 170},
    "sft": {
        "init_lr_frac": 0.3,
        "batching": "packed",
        "device_batch_tokens": 1024,
        "eval_steps": 8,
        "eval_metrics_max_problems": 100,
    },
}
# With a vocabulary of 65,536 a token costs five times as much: enough to have something to go on from, no more.
SHORT = {
    "base": {"num_iterations": 60, "total_batch_size": 1024},
    "mid": {"num_iterations": 20, "total_batch_size": 1024},
    "sft": {"num_iterations": 10, "target_examples_per_step": 8, "eval_steps": 2, "eval_metrics_max_problems": 10},
}


def recipe(stage: str, data: str, model_tag: str = "d4", **changes: Any) -> JobConfig:
    """The course's settings of a stage, with changes.

    >>> recipe("mid", "toy", num_iterations=5).total_batch_size
    2048
    """
    settings = {"data": data, "model_tag": model_tag, **RECIPE[stage]}
    if stage == "base" and (depth := re.fullmatch(r"d(\d+)", model_tag)):
        settings["depth"] = int(depth[1])
    return STAGES[stage](**{**settings, **changes})


def ensure_tokenizer(data: str, say: Callable[[str], None] = print) -> Tokenizer:
    """The tokenizer in the cache folder; if there is none, train it on the data first, and say so."""
    if not (tokenizer_dir() / TOKENIZER_FILE).exists():
        say(f"No tokenizer in {shown(tokenizer_dir())} -> training it now.")
        return train_tokenizer(TokenizerConfig(data=data), say)
    tokenizer = Tokenizer.load(tokenizer_dir())
    say(f"Tokenizer of {tokenizer.vocab_size:,} tokens ({tokenizer.fingerprint}) from {shown(tokenizer_dir())}")
    return tokenizer


def ensure_checkpoint(stage: str, data: str, model_tag: str = "d4", say: Callable[[str], None] = print) -> Path:
    """The folder of a base, mid or SFT checkpoint; if it is missing, train what is missing first, and say so.

    On built-in rows by the recipe (some minutes); on other data only a few steps, enough to go on from.
    """
    try:
        path = find_checkpoint(stage, model_tag)
        meta = read_meta(path)
        made_of = meta["provenance"]["data"]
        if made_of != str(data):
            say(f"Note: the {stage} checkpoint {model_tag!r} there is was trained on {made_of}, not on {data}.")
        if meta["step"] >= meta.get("num_iterations", 0):
            return path
        say(f"The {stage} checkpoint {model_tag!r} is of step {meta['step']} of {meta['num_iterations']} -> going on.")
        settings = {**meta["settings"], "resume": str(path)}
        return _train(start(STAGES[stage](**settings), say), say)
    except FileNotFoundError:
        say(f"No {stage} checkpoint {model_tag!r} yet -> training it now.")
    if stage in PARENTS:
        ensure_checkpoint(PARENTS[stage], data, model_tag, say)
    else:
        ensure_tokenizer(data, say)
    changes = {} if data == "toy" else SHORT[stage]
    return _train(start(recipe(stage, data, model_tag, **changes), say), say)


def _train(job: Job, say: Callable[[str], None]) -> Path:
    """Run a job to its end, a line every 20 steps; the folder of its checkpoint."""
    began, first = time.perf_counter(), job.first_step
    for report in run(job, say):
        if report.step % 20 == 0:
            done = report.step + 1 - first
            left = (time.perf_counter() - began) / done * (job.num_iterations - report.step - 1)
            say(f"{report.line(job.num_iterations)} | about {left:.0f} s left")
    return job.saved


def execute(notebook: Path, output: Path, parameters: dict | None = None) -> None:
    """Run a notebook in a fresh kernel with papermill, its text streaming to the terminal."""
    import papermill  # here, because the notebooks import this module and it takes seconds

    output.parent.mkdir(parents=True, exist_ok=True)
    os.environ["PAPERMILL"] = "1"  # nobody watches the kernel's pictures: notebooks print plain lines instead
    began = time.perf_counter()
    papermill.execute_notebook(
        notebook, output, parameters=parameters or {}, cwd=str(notebook.parent), log_output=True, progress_bar=False
    )
    print(f"--- {notebook.name}: {time.perf_counter() - began:.0f} s, executed copy {shown(output)}")


def run_main_job() -> None:
    """`make run`: the training notebooks on built-in rows, then the table that says what training changed."""
    folder = (cache_dir() / "runs" / "main").resolve()
    os.environ["NANOLAB_CACHE"] = str(folder)  # its checkpoints stay apart from those you make in the lab
    for name in TRAINING_NOTEBOOKS:
        execute(NOTEBOOKS / name, folder / "notebooks" / name, {"data": "toy", "model_tag": "d4"})
    table = side_by_side(["base", "mid", "sft"], "d4")
    print(f"\nHeld-out built-in rows, share answered correctly (kept in {shown(folder)})")
    print(table.to_string(float_format=lambda value: f"{value:.1%}"))


def run_notebooks(numbers: Sequence[str] = ()) -> None:
    """`make notebooks`: every notebook in order, or those of some numbers, run as it is and saved with its outputs."""
    folder = (cache_dir() / "runs" / "course").resolve()
    if not numbers and folder.exists():
        print(f"Starting anew: removing {shown(folder)}, what an earlier run of all notebooks has left.")
        shutil.rmtree(folder)
    os.environ["NANOLAB_CACHE"] = str(folder)
    os.environ["PAPERMILL"] = "1"
    if FULL_RUN in numbers:
        forget(folder, TAG_OF_FULL_RUN)  # it goes on where it stopped, and is to show its beginning
    paths = [path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) if not numbers or path.name[:2] in numbers]
    for only_look, some in groupby(paths, key=lambda path: path.name[:2] in ONLY_LOOK):
        with ThreadPoolExecutor(2 if only_look else 1) as pool:
            list(pool.map(run_in_place, some))
    if not numbers:
        draw_readme_picture(NOTEBOOKS / "pictures" / "batch_map.png")


def forget(folder: Path, model_tag: str) -> None:
    """Remove a cache folder's checkpoints and runs of one name."""
    for place in (*folder.glob(f"checkpoints/*/{model_tag}"), *folder.glob(f"runs/*_{model_tag}")):
        shutil.rmtree(place)


def run_in_place(path: Path) -> None:
    """Run a notebook in a fresh kernel and save it with its outputs."""
    import nbformat  # these two as well
    from nbclient import NotebookClient

    began = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}  # the kernel's working folder
    options = {"record_timing": False, "store_widget_state": False}  # what would differ with every run
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=where, **options).execute()
    notebook.metadata[RAN] = digest_of_what_runs([cell.source for cell in notebook.cells if cell.cell_type == "code"])
    nbformat.write(notebook, path)
    print(f"{path.name}: {time.perf_counter() - began:.0f} s", flush=True)


def digest_of_what_runs(cells: Sequence[str]) -> str:
    """A short digest of a notebook's code and of the course's recipe: saved outputs of another one are out of date.

    >>> digest_of_what_runs(["1 + 1"]) == digest_of_what_runs(["1 + 2"])
    False
    """
    return sha256(json.dumps([RECIPE, *cells], sort_keys=True).encode()).hexdigest()[:16]


def draw_readme_picture(path: Path) -> None:
    """The README's picture: the first micro-batch of four conversations, laid out as nanochat does."""
    tokenizer = ensure_tokenizer("toy")
    batch = StepDataset(sft_mixture(data="toy"), tokenizer, num_examples=4)[0].batches[0]
    figure = show.batch_map(batch.inputs, batch.targets, tokenizer.special("assistant_end"))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90, bbox_inches="tight")


def main(args: list[str]) -> int:
    """Run what was named; the exit status is 2 for an unknown name, 1 where there are no notebooks."""
    if not NOTEBOOKS.is_dir():
        print(f"nanolab.course: {NO_CLONE}", file=sys.stderr)
        return 1
    _stream_notebook_text()
    verb, *numbers = args or [""]
    there = {path.name[:2] for path in NOTEBOOKS.glob("[0-9]*.ipynb")}
    if verb == "run" and not numbers:
        run_main_job()
    elif verb == "notebooks" and there.issuperset(numbers):
        run_notebooks(numbers)
    else:
        print("usage: python -m nanolab.course run | notebooks [number ...]", file=sys.stderr)
        return 2
    return 0


def _stream_notebook_text():
    """Let papermill's log, which carries what cells print, reach the terminal, without pictures and cell borders."""
    to_terminal = logging.StreamHandler(sys.stdout)
    to_terminal.addFilter(lambda record: not record.getMessage().startswith(NOT_FOR_TERMINALS))
    to_terminal.format = lambda record: record.getMessage().rstrip("\n")
    papermill_log = logging.getLogger("papermill")
    papermill_log.setLevel(logging.INFO)
    papermill_log.addHandler(to_terminal)
    papermill_log.propagate = False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
