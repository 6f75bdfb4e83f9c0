"""Every notebook runs from top to bottom in a fresh kernel, with other parameters than its own, as papermill would."""

import papermill
import pytest
import yaml

from nanolab.course import NOTEBOOKS

QUICK = {
    "07_layouts": {"num_steps": 2, "depth": 2, "rounds": 1},
    "08_will_it_fit": {"depth": 2, "vocab_size": 8_192, "examples_per_step": 16, "device_batch_tokens": 1_024},
    "09_base_and_mid": {
        "depth": 2,
        "model_tag": "d4",  # the name that 10 to 14 look for: they go on with two layers, too
        "base_iterations": 8,
        "mid_iterations": 2,
        "max_problems": 2,
        "max_tokens": 32,
    },
    "10_sft": {"num_iterations": 3, "target_examples_per_step": 8, "device_batch_size": 4, "max_problems": 4},
    "11_active_tokens": {"num_iterations": 3, "num_frozen": 64, "num_held_out": 4},
    "12_does_it_matter": {
        "target_examples_per_step": 8,
        "num_iterations": 2,
        "num_iterations_from_mid": 1,
        "max_problems": 2,
        "max_tokens": 16,
        "mid_iterations": 2,
        "num_pairs": 2,
        "tiny_iterations": 4,
    },
    "13_grade": {"max_problems": 4, "max_tokens": 24},
    "14_talk": {"max_tokens": 24},
    "15_full_run": yaml.safe_load((NOTEBOOKS / "profiles" / "quick.yaml").read_text(encoding="utf-8")),
}


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """One cache folder for all, in order: 10 finds the checkpoints that 09 has trained."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_run_all_passes(path, shared_cache, monkeypatch):
    monkeypatch.setenv("NANOLAB_CACHE", str(shared_cache))
    monkeypatch.setenv("PAPERMILL", "1")
    parameters = {"data": "toy", **QUICK.get(path.stem, {})}
    executed = papermill.execute_notebook(
        path, shared_cache / path.name, parameters=parameters, cwd=str(path.parent), progress_bar=False
    )
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
