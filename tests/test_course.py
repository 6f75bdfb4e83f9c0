"""The course's own runs: what they train, and that every notebook is in order as it is kept."""

import ast
import builtins
import re

import nbformat
import pytest

from nanolab import course
from nanolab.settings import TokenizerConfig, check_settings

SOMEBODYS_FOLDER = re.compile(r"(?<![\w./])/(?:home|Users|root|work|tmp|private|mnt|opt)/\w+")
NOTEBOOKS = sorted(course.NOTEBOOKS.glob("*.ipynb"))


def test_the_full_run_is_forgotten_under_its_own_name_and_nothing_else(tmp_path):
    parameters = next(
        cell.source
        for cell in code_cells(nbformat.read(NOTEBOOKS[15], as_version=4))
        if "parameters" in cell.metadata.get("tags", [])
    )
    assert f'model_tag = "{course.TAG_OF_FULL_RUN}"' in parameters and NOTEBOOKS[15].name.startswith(course.FULL_RUN)
    for name in ("checkpoints/sft/quick", "checkpoints/sft/d4", "runs/sft_quick", "runs/sft_d4"):
        (tmp_path / name).mkdir(parents=True)
    course.forget(tmp_path, course.TAG_OF_FULL_RUN)
    assert [path.name for path in sorted(tmp_path.glob("*/*"))] == ["sft", "sft_d4"]
    assert [path.name for path in tmp_path.glob("checkpoints/sft/*")] == ["d4"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_they_are_numbered():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers == [f"{number:02}" for number in range(len(numbers))]
    for number, path in zip(numbers, NOTEBOOKS, strict=True):
        assert nbformat.read(path, as_version=4).cells[0].source.startswith(f"# {number} ")


def test_a_notebook_is_saved_with_the_outputs_of_one_run_from_top_to_bottom(notebook):
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert any(cell.outputs for cell in code_cells(notebook))


def test_a_notebooks_outputs_are_of_the_code_and_the_recipe_that_stand_there(notebook):
    ran = course.digest_of_what_runs([cell.source for cell in code_cells(notebook)])
    assert notebook.metadata.get(course.RAN) == ran, "Its code or RECIPE changed since it was saved: make notebooks."


def names_in(code):
    """Names that a piece of code makes, and names that it uses and does not make."""
    nodes = list(ast.walk(ast.parse(code)))
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return made, used - made - set(dir(builtins)) - {"display"}


def test_folded_solutions_use_only_names_that_the_notebook_has(notebook):
    known = set().union(*(names_in(re.sub(r"(?m)^%.*$", "", cell.source))[0] for cell in code_cells(notebook)))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for details in re.findall(r"<details>.*?</details>", text, re.DOTALL):
        made = set()
        for code in re.findall(r"```python\n(.*?)```", details, re.DOTALL):
            new, used = names_in(code)
            made |= new
            assert used <= known | made, f"{used - known - made} in\n{code}"


def test_a_notebook_shows_no_error_no_warning_and_no_home_folder(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
            assert not SOMEBODYS_FOLDER.findall(str(output))


def test_a_notebook_is_small_and_its_cells_are_short(notebook):
    assert len(nbformat.writes(notebook)) < 400_000
    working = [cell for cell in code_cells(notebook) if not cell.source.startswith(("import ", "from "))]
    working = [cell for cell in working if "parameters" not in cell.metadata.get("tags", [])]  # a line each
    assert max(len(cell.source.splitlines()) for cell in working) <= 20


def test_a_notebook_has_one_cell_of_parameters_with_plain_values(notebook):
    tagged = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    values = {}
    exec(tagged[0].source, {"__builtins__": {}}, values)  # plain literals need no names
    assert all(isinstance(value, str | int | float | bool) for value in values.values())


def test_a_notebooks_claims_are_asserts_and_its_links_exist(notebook):
    assert any("assert " in cell.source for cell in code_cells(notebook))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    names = [piece.split(")")[0] for piece in text.split("](")[1:]]
    for name in names:
        assert name.startswith(("http", "#")) or (course.NOTEBOOKS / name.split("#")[0]).exists(), name


def test_the_recipe_takes_changes_and_knows_its_stages():
    config = course.recipe("mid", "toy", num_iterations=5)
    assert config.num_iterations == 5 and config.data == "toy" and config.model_tag == "d4"
    with pytest.raises(KeyError):
        course.recipe("rl", "toy")


def test_a_missing_tokenizer_is_trained_and_a_present_one_loaded(monkeypatch):
    small = TokenizerConfig(data="toy", vocab_size=300, max_chars=5_000, max_words=10)
    monkeypatch.setattr(course, "TokenizerConfig", lambda data: small)
    said = []
    first = course.ensure_tokenizer("toy", said.append)
    second = course.ensure_tokenizer("toy", said.append)
    assert first.fingerprint == second.fingerprint
    assert "training it now" in said[0] and said[-1].startswith("Tokenizer of 300 tokens")


def test_a_missing_mid_checkpoint_is_trained_with_all_it_needs(monkeypatch):
    small = TokenizerConfig(data="toy", vocab_size=300, max_chars=5_000, max_words=10)
    tiny = {"num_iterations": 1, "max_seq_len": 32, "device_batch_size": 1, "total_batch_size": 32, "eval_tokens": 32}
    monkeypatch.setattr(course, "TokenizerConfig", lambda data: small)
    monkeypatch.setattr(course, "RECIPE", {"base": {**tiny, "depth": 1}, "mid": tiny})
    said = []
    path = course.ensure_checkpoint("mid", "toy", "tiny", said.append)
    assert path.parent.name == "tiny" and (path / "model.safetensors").exists()
    assert [line for line in said if "yet -> training it now" in line] == [
        "No mid checkpoint 'tiny' yet -> training it now.",
        "No base checkpoint 'tiny' yet -> training it now.",
    ]
    said.clear()
    assert course.ensure_checkpoint("mid", "toy", "tiny", said.append) == path and not said


def test_a_missing_sft_checkpoint_is_trained_from_the_mid_checkpoint_there_is(monkeypatch):
    tiny = {"num_iterations": 1, "max_seq_len": 32, "device_batch_size": 1, "total_batch_size": 32, "eval_tokens": 32}
    sft = {"num_iterations": 1, "target_examples_per_step": 2, "eval_steps": 1, "eval_metrics_max_problems": 1}
    small = TokenizerConfig(data="toy", vocab_size=300, max_chars=5_000, max_words=10)
    monkeypatch.setattr(course, "TokenizerConfig", lambda data: small)
    monkeypatch.setattr(course, "RECIPE", {"base": {**tiny, "depth": 1}, "mid": tiny, "sft": sft})
    said = []
    mid = course.ensure_checkpoint("mid", "toy", "tiny", said.append)
    said.clear()
    path = course.ensure_checkpoint("sft", "toy", "tiny", said.append)
    assert path.parent.parent.name == "sft" and path.parent.name == "tiny" and (path / "model.safetensors").exists()
    assert [line for line in said if "training it now" in line] == ["No sft checkpoint 'tiny' yet -> training it now."]
    assert any(line.startswith("Starting from") and mid.name in line for line in said)
    said.clear()
    assert course.ensure_checkpoint("sft", "toy", "tiny", said.append) == path and not said


@pytest.mark.parametrize("stage", course.STAGES)
def test_on_other_data_every_stage_has_a_short_form_with_settings_that_work(stage):
    config = course.recipe(stage, "rows", **course.SHORT[stage])
    check_settings(config)
    assert 0 < config.num_iterations <= 60
