import json
import os
import platform
import random
import subprocess
import sys

import pytest
import torch

from nanolab import checkpoint
from nanolab.checkpoint import amend_meta, find_checkpoint, load_checkpoint, remove_older, save_checkpoint


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


def test_the_one_saved_last_is_taken_unless_another_is_named(tiny_model, small_tokenizer):
    for step in (5, 1000, 20):
        save(tiny_model, small_tokenizer, step=step)
    assert find_checkpoint("sft", "d2").name == "step_000020"
    amend_meta(find_checkpoint("sft", "d2", step=1000), {"metrics": {"val_loss": 1.5}})
    assert find_checkpoint("sft", "d2").name == "step_000020"
    assert load_checkpoint("sft", "d2", step=1000).meta["metrics"] == {"val_loss": 1.5}
    save(tiny_model, small_tokenizer, step=1000)
    assert find_checkpoint("sft", "d2").name == "step_001000"
    assert find_checkpoint("sft", "d2", step=5).name == "step_000005"
    with pytest.raises(FileNotFoundError, match=r"No step 6.*There are: 5, 20, 1000\."):
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
    with pytest.raises(ValueError, match="tokenizer.json is not the file that was saved"):
        load_checkpoint("sft", "d2")


def test_a_kill_between_two_renames_loses_no_checkpoint(tiny_model, small_tokenizer):
    path = save(tiny_model, small_tokenizer, note="old")
    aside = path.parent / ".replaced-x"
    aside.mkdir()
    path.rename(aside / path.name)  # where it is when the second rename never came
    assert load_checkpoint("sft", "d2").meta["note"] == "old"
    assert [p.name for p in path.parent.iterdir()] == ["step_000010"]


def test_what_a_killed_process_left_is_swept_up_and_what_another_writes_is_not(tiny_model, small_tokenizer):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    path = save(tiny_model, small_tokenizer)
    left = path.parent / f".writing-{platform.node()}-{int(dead.stdout)}-abc"
    others = [path.parent / f".writing-{platform.node()}-{os.getppid()}-abc", path.parent / ".writing-other-host-7-abc"]
    for folder in (left, *others):
        folder.mkdir()
    assert save(tiny_model, small_tokenizer) == path
    assert not left.exists() and all(folder.exists() for folder in others)


def flip(data: bytes, rng) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def insert(data: bytes, rng) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + rng.randbytes(rng.randint(1, 40)) + data[place:]


DAMAGES = {
    "flipped bit": flip,
    "cut": lambda data, rng: data[: rng.randrange(len(data))],
    "more": insert,
    "zeros": lambda data, rng: bytes(len(data)),
    "junk": lambda data, rng: rng.randbytes(rng.randint(0, 400)),
    "nothing": lambda data, rng: b"",
}


def test_five_hundred_damaged_folders_each_give_one_clear_error_or_the_saved_weights(tiny_model, small_tokenizer):
    path = save(tiny_model, small_tokenizer, note="a word")
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    rng, errors = random.Random(0), 0
    for _ in range(500):
        name, damage = rng.choice(sorted(whole)), rng.choice(sorted(DAMAGES))
        (path / name).write_bytes(DAMAGES[damage](whole[name], rng))
        try:
            model = load_checkpoint("sft", "d2").model
            assert name == "meta.json"  # a letter of a note may change unnoticed, a weight never
            assert all(map(torch.equal, model.parameters(), tiny_model.parameters()))
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 600
            errors += 1
        (path / name).write_bytes(whole[name])
    assert errors > 350
    assert load_checkpoint("sft", "d2").meta["note"] == "a word"


HUGE = 10**9


@pytest.mark.parametrize("key", ["n_layer", "n_embd", "n_head", "n_kv_head", "vocab_size", "sequence_len"])
@pytest.mark.parametrize("value", [0, -1, 3, HUGE, "4", None, [1], 2.5])
def test_a_changed_shape_in_the_metadata_never_hangs_or_fills_memory(key, value, tiny_model, small_tokenizer):
    path = save(tiny_model, small_tokenizer)
    meta = json.loads((path / "meta.json").read_text())
    meta["model_config"][key] = value
    (path / "meta.json").write_text(json.dumps(meta))
    if key == "sequence_len" and value in (3, HUGE):  # says how it was trained, and shapes nothing
        assert load_checkpoint("sft", "d2").model.config.sequence_len == value
        return
    with pytest.raises(ValueError, match=f"The checkpoint {path} is damaged or of another version"):
        load_checkpoint("sft", "d2")


FULL_DISK = """
import resource, signal, sys
from nanolab.checkpoint import load_checkpoint, save_checkpoint

model, tokenizer, meta, path = load_checkpoint("sft", "d2")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # no file may grow beyond: as on a disk that is full
state = {"optimizers": [{"average": weight.detach()} for weight in model.parameters()]}
try:
    save_checkpoint("sft", "d2", int(sys.argv[2]), model, tokenizer, {"note": "new"}, state)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="the limit of a file's size is asked of a Unix system")
@pytest.mark.parametrize("step", [10, 20])
@pytest.mark.parametrize("limit", [0, 2_000, 100_000, "weights"])
def test_a_full_disk_is_told_and_leaves_the_earlier_checkpoint_whole(limit, step, tiny_model, small_tokenizer):
    path = save(tiny_model, small_tokenizer, note="old")
    limit = (path / "model.safetensors").stat().st_size if limit == "weights" else limit  # only optimizer.pt is larger
    command = [sys.executable, "-c", FULL_DISK, str(limit), str(step)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Could not write ") and "Earlier checkpoints are whole." in ended.stdout
    assert load_checkpoint("sft", "d2").meta["note"] == "old"
    assert [p.name for p in path.parent.iterdir()] == ["step_000010"]


def test_a_process_that_dies_while_it_removes_an_old_checkpoint_leaves_no_half_of_it(
    tiny_model, small_tokenizer, monkeypatch
):
    for step in (1, 2, 3):
        save(tiny_model, small_tokenizer, step=step)

    def dies(folder):
        next(folder.rglob("meta.json")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint.shutil, "rmtree", dies)
        remove_older("sft", "d2", keep_last=2)
    assert find_checkpoint("sft", "d2").name == "step_000003" and load_checkpoint("sft", "d2").meta["step"] == 3
    folder = save(tiny_model, small_tokenizer, step=4).parent  # sweeps up what is left of step 1
    assert sorted(path.name for path in folder.iterdir()) == ["step_000002", "step_000003", "step_000004"]
