import json

import pytest
import torch

from nanolab.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint


def save(tiny_model, small_tokenizer, tag="d2", step=10, **meta):
    return save_checkpoint("sft", tag, step, tiny_model, small_tokenizer, meta)


def test_a_loaded_checkpoint_is_the_saved_one_bit_by_bit(tiny_model, small_tokenizer):
    path = save(tiny_model, small_tokenizer, settings={"depth": 2})
    model, tokenizer, meta, found = load_checkpoint("sft", "d2")
    assert found == path and path.name == "step_000010"
    for (name, ours), (_, theirs) in zip(model.named_parameters(), tiny_model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert tokenizer.fingerprint == small_tokenizer.fingerprint
    assert meta["settings"] == {"depth": 2} and meta["step"] == 10 and not model.training


def test_the_folder_holds_safetensors_json_and_the_tokenizer_and_nothing_is_left_beside(tiny_model, small_tokenizer):
    path = save(tiny_model, small_tokenizer)
    assert sorted(p.name for p in path.iterdir()) == ["meta.json", "model.safetensors", "tokenizer.json"]
    assert [p.name for p in path.parent.iterdir()] == ["step_000010"]


def test_saving_again_replaces(tiny_model, small_tokenizer):
    save(tiny_model, small_tokenizer, note="first")
    path = save(tiny_model, small_tokenizer, note="second")
    assert load_checkpoint("sft", "d2").meta["note"] == "second"
    assert [p.name for p in path.parent.iterdir()] == ["step_000010"]


def test_a_save_that_fails_leaves_the_old_checkpoint_and_no_rubbish(tiny_model, small_tokenizer):
    path = save(tiny_model, small_tokenizer, note="good")
    with pytest.raises(TypeError):
        save(tiny_model, small_tokenizer, note=object())  # not JSON
    assert load_checkpoint("sft", "d2").meta["note"] == "good"
    assert [p.name for p in path.parent.iterdir()] == ["step_000010"]


def test_the_last_step_is_taken_unless_another_is_named(tiny_model, small_tokenizer):
    for step in (5, 1000, 20):
        save(tiny_model, small_tokenizer, step=step)
    assert find_checkpoint("sft", "d2").name == "step_001000"
    assert find_checkpoint("sft", "d2", step=5).name == "step_000005"
    with pytest.raises(FileNotFoundError, match=r"No step 6.*\[5, 20, 1000\]"):
        find_checkpoint("sft", "d2", step=6)


def test_the_only_tag_needs_no_name_but_of_several_one_must_be_named(tiny_model, small_tokenizer):
    with pytest.raises(FileNotFoundError, match="python -m nanolab sft"):
        find_checkpoint("sft")
    save(tiny_model, small_tokenizer, tag="d2")
    assert find_checkpoint("sft").parent.name == "d2"
    save(tiny_model, small_tokenizer, tag="d4")
    with pytest.raises(ValueError, match="d2, d4"):
        find_checkpoint("sft")
    with pytest.raises(FileNotFoundError, match="No sft checkpoint 'd8'.*d2, d4"):
        find_checkpoint("sft", "d8")
    with pytest.raises(ValueError, match="Unknown stage 'rl'"):
        find_checkpoint("rl")


def damage_weights(path):
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def damage_meta(path):
    (path / "meta.json").write_text("{")


def other_shape(path):
    meta = json.loads((path / "meta.json").read_text())
    meta["model_config"]["vocab_size"] += 1
    (path / "meta.json").write_text(json.dumps(meta))


def no_weights(path):
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [damage_weights, damage_meta, other_shape, no_weights])
def test_a_damaged_checkpoint_gives_one_clear_error(damage, tiny_model, small_tokenizer):
    path = save(tiny_model, small_tokenizer)
    damage(path)
    with pytest.raises(ValueError, match=f"{path} is damaged or of another version"):
        load_checkpoint("sft", "d2")


def test_another_tokenizer_in_the_folder_is_noticed(tiny_model, small_tokenizer, byte_tokenizer):
    byte_tokenizer.save(save(tiny_model, small_tokenizer))
    with pytest.raises(ValueError, match="another tokenizer"):
        load_checkpoint("sft", "d2")
