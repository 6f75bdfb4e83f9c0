"""`nanolab export` and `nanolab import`: out and in again without losing a bit, errors in words, a quick --help."""

import subprocess
import sys

import pytest
import torch

from nanolab.checkpoint import load_checkpoint, save_checkpoint
from nanolab.cli import main
from nanolab.convert.commands import import_checkpoint
from nanolab.settings import ExportConfig, ImportConfig, check_settings


@pytest.fixture
def kept(tiny_model, small_tokenizer):
    """A checkpoint of a random model."""
    meta = {"step": 3, "settings": {"data": "toy"}, "metrics": {}, "provenance": {"data": "toy"}}
    save_checkpoint("sft", "d2", 3, tiny_model, small_tokenizer, meta)
    return load_checkpoint("sft", "d2")


def test_exported_and_imported_again_nothing_has_changed(kept, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["export", "--model_tag=d2", "--to", str(folder), "--license=mit"]) == 0
    assert "license: mit" in (folder / "README.md").read_text() and "step 3" in capsys.readouterr().out
    assert main(["import", "--path", str(folder), "--model-tag", "back"]) == 0
    assert "--model_tag back" in capsys.readouterr().out
    again = load_checkpoint("sft", "back")
    assert again.tokenizer.fingerprint == kept.tokenizer.fingerprint
    assert again.model.config == kept.model.config
    assert all(map(torch.equal, again.model.parameters(), kept.model.parameters()))


def test_without_a_tag_the_folders_name_is_the_tag(kept, tmp_path):
    main(["export", "--to", str(tmp_path / "my model")])
    assert import_checkpoint(ImportConfig(path=str(tmp_path / "my model"), stage="mid")).parts[-3:-1] == (
        "mid",
        "my-model",
    )


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (ImportConfig(), r"either path \(a folder\) or from_hub"),
        (ImportConfig(path="a", from_hub="b/c"), "and not both"),
        (ImportConfig(path="a", stage="rl"), "stage must be one of base, mid, sft, got 'rl'"),
        (ExportConfig(), "Say which folder to write: to"),
        (ExportConfig(to="a", source="rl"), "source must be one of base, mid, sft"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_settings(config)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["import", "--path=nowhere"], "There is no folder nowhere."),
        (["import", "--from_hub=nanochat"], "is no model's name on the hub"),
        (["export", "--to=x", "--model_tag=d99"], "No sft checkpoint"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_status_1(options, sentence, capsys):
    assert main(options) == 1
    errors = capsys.readouterr().err
    assert sentence in errors and errors.startswith("nanolab: ") and "Traceback" not in errors


def test_an_empty_folder_is_told_apart_from_a_damaged_one(tmp_path, capsys):
    assert main(["import", "--path", str(tmp_path)]) == 1
    assert "model_" in capsys.readouterr().err  # what was looked for


def test_help_needs_neither_torch_nor_datasets():
    code = "import sys, nanolab.cli; print([name for name in ('torch', 'datasets', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
