"""The built wheel, installed into an environment that has no clone: what is in it, and that it trains."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
FILES, FOLDERS = ("pyproject.toml", "README.md", "LICENSE"), ("nanolab", "notebooks", "tests")
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
TINY = ["--max_seq_len=64", "--device_batch_size=1", "--total_batch_size=64", "--eval_tokens=64"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since building leaves folders beside the source, and takes what older builds have left."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in FILES:
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(dist), str(source))
    (built,) = dist.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An environment that holds the wheel alone, and finds its dependencies among the packages of this one.

    A line of a .pth file is a folder to import from, whose own .pth files are not read: so this environment's editable
    nanolab is not found.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    pip("--python", str(python_of(folder)), "install", str(wheel))
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}, scheme="venv")
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(own) / "dependencies.pth").write_text("\n".join(sorted(others)) + "\n")
    return folder


@pytest.fixture
def outside(tmp_path) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def pip(*arguments: str):
    """Run this environment's pip, without a network; building needs the setuptools that pyproject.toml names."""
    ways = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    verb = next(k for k, argument in enumerate(arguments) if argument in ("wheel", "install"))
    command = [sys.executable, "-m", "pip", *arguments[: verb + 1], *ways, *arguments[verb + 1 :]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def python_of(environment: Path) -> Path:
    return environment / SCRIPTS / "python"


def run(environment: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run `nanolab ...`, or `python ...` of the environment in a folder, with a home of its own beside it."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("NANOLAB_", "PYTHON"))}
    variables |= {"OMP_NUM_THREADS": "1", "HOME": str(folder.parent / "home"), "HF_HUB_OFFLINE": "1"}
    program, *rest = arguments
    command = [str(environment / SCRIPTS / program), *rest]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_holds_the_whole_package_its_licence_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        facts = Parser().parsestr(archive.read(metadata).decode())
        scripts = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    about = {name for name in names if name.startswith(metadata.removesuffix("METADATA"))}
    package = {f"nanolab/{name}" for name in files_in(ROOT / "nanolab") if "__pycache__" not in name}
    assert names - about == package
    assert {"nanolab/py.typed", "nanolab/tasks/toy/facts.py"} <= package
    for folder in ("convert", "exercises", "show", "tasks", "tasks/toy"):
        assert f"nanolab/{folder}/__init__.py" in names
    assert {name.split("/", 1)[1] for name in about} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "top_level.txt",
    }
    assert facts["License-Expression"] == "MIT" and facts["License-File"] == "LICENSE"
    assert facts["Description-Content-Type"] == "text/markdown" and facts.get_payload().startswith("# nanolab")
    assert "nanolab = nanolab.cli:main" in scripts


def test_the_package_that_is_imported_is_the_wheels(environment, outside):
    code = "import nanolab, nanolab.paths; print(nanolab.__file__); print(nanolab.paths.cache_dir())"
    where, cache = run(environment, outside, "python", "-c", code).stdout.splitlines()
    assert Path(where).is_relative_to(environment) and cache == "data_cache"


def test_help_answers_without_torch_and_datasets(environment, outside):
    everything = run(environment, outside, "nanolab", "--help")
    assert everything.returncode == 0 and "Supervised fine-tuning." in everything.stdout
    settings = run(environment, outside, "nanolab", "sft", "--help")
    assert settings.returncode == 0 and "target-examples-per-step" in settings.stdout.replace("_", "-")
    timed = run(environment, outside, "python", "-X", "importtime", "-m", "nanolab", "sft", "--help")
    imported = {line.rpartition("|")[2].strip() for line in timed.stderr.splitlines()}
    assert "tyro" in imported and "nanolab.settings" in imported
    assert not imported & {"torch", "datasets", "pandas", "pyarrow", "matplotlib", "tiktoken", "IPython"}
    assert not files_in(outside)


def test_a_model_is_trained_from_nothing_and_what_is_written_lies_in_the_folder(environment, outside):
    jobs = (
        ["tokenizer", "--vocab_size=300", "--max_chars=5000", "--max_words=10"],
        ["base", "--model_tag=tiny", "--depth=1", "--num_iterations=3", *TINY],
        ["mid", "--model_tag=tiny", "--num_iterations=2", *TINY],
        ["sft", "--model_tag=tiny", "--num_iterations=5", "--target_examples_per_step=2", "--eval_steps=1"],
    )
    for job in jobs:
        more = ["--eval_metrics_max_problems=2"] if job[0] == "sft" else []
        done = run(environment, outside, "nanolab", *job, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    written = files_in(outside)
    assert {name.split("/")[0] for name in written} == {"data_cache"}
    assert not files_in(outside.parent) - {f"{outside.name}/{name}" for name in written}, "something lies in the home"
    for stage, step in (("base", 3), ("mid", 2), ("sft", 5)):
        assert f"data_cache/checkpoints/{stage}/tiny/step_{step:06d}/model.safetensors" in written
    lines = (outside / "data_cache/runs/sft_tiny/metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert len(losses) == 5 and all(0 < loss < 20 for loss in losses)


@pytest.mark.parametrize("module", [("nanolab.course", "run"), ("nanolab.site",)])
def test_what_needs_the_clone_says_so_in_a_sentence(module, environment, outside):
    done = run(environment, outside, "python", "-m", *module)
    assert done.returncode == 1 and not files_in(outside)
    assert done.stderr.splitlines()[-1] == (
        f"{module[0]}: The notebooks are not part of the installed package, but of its repository. Clone it, and run "
        "this there."
    )
    assert "Traceback" not in done.stderr
