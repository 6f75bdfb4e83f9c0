"""The estimate of a step's memory: against tensors that autograd keeps, and against what a process held."""

import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanolab import memory
from nanolab.batch import IGNORE_INDEX, Batch, lay_out
from nanolab.gpt import GPT, LOGIT_SOFTCAP, GPTConfig
from nanolab.loss import plain_cross_entropy
from nanolab.memory import (
    END_OF_BACKWARD,
    END_OF_FORWARD,
    OPTIMIZER_STEP,
    START_OF_BACKWARD,
    Load,
    MemoryEstimate,
    MiB,
    PeakMemory,
    RunSizes,
    available_bytes,
    cgroup_bytes,
    estimate_memory,
    fits,
    memory_warning,
    naive_logits_bytes,
)
from nanolab.optim import make_optimizers
from nanolab.runtime import autocast

D4 = GPTConfig.from_depth(4, 1024)
GROUPED = GPTConfig(vocab_size=512, n_layer=2, n_head=4, n_kv_head=2, n_embd=128)
ROWS = [([i % 500 for i in range(length)], [0] * 20 + [1] * (length - 20)) for length in (61, 91, 31, 124)]

# A step in a process of its own: what a step leaves behind would count for the next one.
CHILD = """
import gc, json, sys
import torch
from nanolab.batch import Batch, lay_out
from nanolab.gpt import GPT, GPTConfig
from nanolab.memory import Load, PeakMemory, estimate_memory
from nanolab.optim import make_optimizers
from nanolab.train import backward

torch.set_num_threads(1)
kind, vocab_size = sys.argv[1], int(sys.argv[2])
rows = [([i % 1000 for i in range(n)], [0] * (n // 2) + [1] * (n - n // 2)) for n in range(60, 360, 20)]
if kind == "stream":
    ids = torch.zeros((8, 512), dtype=torch.long)
    batches = [Batch(ids, ids, real_tokens=4096)] * 2
else:
    batches = lay_out(rows, kind, pad_id=0, device_batch_tokens=2048)
measured = PeakMemory(torch.device("cpu"))
model = GPT(GPTConfig.from_depth(4, vocab_size))
optimizers = make_optimizers(model, 0.004, 0.2, 0.02)
for step in (lay_out([([0] * 9, [1] * 9)], pad_id=0), batches):  # after the first, the optimizers have their states
    gc.collect()
    measured.reset()
    backward(model, step)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad(set_to_none=True)
estimate = estimate_memory(model.config, [Load.of(batch) for batch in batches])
print(json.dumps({"estimate": estimate.total, "measured": measured.peak_bytes(), "note": measured.note}))
"""


def kept_bytes(forward: Callable, there_before: list[torch.Tensor]) -> int:
    """Bytes of the storages that autograd keeps for backward, each once, but for those that were there before."""
    found = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    for tensor in there_before:
        found.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def model_kept(config: GPTConfig, batch: Batch, dtype: str = "float32") -> int:
    model = GPT(config)

    def forward():
        with autocast(torch.device("cpu"), dtype):
            return model.hidden(batch.inputs, borders=batch.borders)[batch.targets != IGNORE_INDEX]

    return kept_bytes(forward, [batch.inputs, *model.parameters()])


def formula(config: GPTConfig, batch: Batch, dtype: str = "float32", device_type: str = "cpu") -> int:
    estimate = estimate_memory(config, [Load.of(batch)], dtype=dtype, device_type=device_type)
    return estimate.moments[END_OF_FORWARD]["activations"]


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("config", [D4, GROUPED])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_activations_of_the_estimate_are_the_bytes_that_autograd_keeps(batching, config, dtype):
    batch = lay_out(ROWS, batching, pad_id=0)[0]
    assert formula(config, batch, dtype) == model_kept(config, batch, dtype)


def test_without_fused_attention_the_shares_of_every_pair_are_kept():
    batch = lay_out(ROWS, pad_id=0)[0]
    with sdpa_kernel(SDPBackend.MATH):  # what MPS does
        kept = model_kept(D4, batch)
    assert formula(D4, batch, device_type="mps") == kept
    assert kept - formula(D4, batch) == 4 * 4 * batch.slots * 2 * (
        123 - 128 - 1
    )  # 4 layers, float32, 2 heads, T - D - 1


def test_plain_logits_keep_twice_slots_times_vocabulary():
    batch = lay_out(ROWS, pad_id=0)[0]
    hidden = torch.randn(*batch.inputs.shape, 16)
    head = torch.nn.Parameter(torch.randn(1024, 16))
    kept = kept_bytes(lambda: plain_cross_entropy(hidden, head, batch.targets, LOGIT_SOFTCAP), [hidden, batch.targets])
    total_weight = 4  # of the loss, one float32
    assert kept - total_weight == naive_logits_bytes(D4, [Load.of(batch)])


def test_the_peak_is_the_largest_moment_not_the_sum_of_all():
    found = estimate_memory(D4, [Load(1, 2048, 1024)])
    assert set(found.moments) == {END_OF_FORWARD, START_OF_BACKWARD, OPTIMIZER_STEP}
    assert found.total == sum(found.parts.values()) == max(sum(parts.values()) for parts in found.moments.values())


def test_each_moment_can_be_the_peak():
    assert estimate_memory(D4, [Load(1, 8, 4)]).moment == OPTIMIZER_STEP
    assert estimate_memory(D4, [Load(1, 2048, 512)]).moment == START_OF_BACKWARD
    assert estimate_memory(replace(D4, vocab_size=65_536), [Load(1, 2048, 512)]).moment == END_OF_FORWARD


def test_gradients_of_all_weights_are_there_from_the_second_micro_batch_on():
    one, two = (estimate_memory(replace(D4, vocab_size=65_536), [Load(1, 2048, 512)] * k) for k in (1, 2))
    assert one.parts["gradients"] == 0
    assert two.parts["gradients"] == two.parts["weights"] == 4 * (2 * 65_536 * 256 + 12 * 4 * 256**2)


def test_a_rank_that_shares_the_weights_holds_its_part_and_what_it_gathers():
    config, loads = replace(D4, vocab_size=65_536), [Load(1, 512, 256)] * 2
    alone, of_four = (estimate_memory(config, loads, device_type="cuda", shards=shards).moments for shards in (1, 4))
    embedding, block = 65_536 * 256 * 4, 12 * 256**2 * 4  # bytes; the head is as large as the embedding
    for moment, parts in alone.items():
        for name in ("weights", "optimizer states"):
            assert of_four[moment][name] == parts[name] // 4
    for moment in (END_OF_FORWARD, START_OF_BACKWARD):
        assert of_four[moment]["activations"] == alone[moment]["activations"]
        assert of_four[moment]["gathered"] == 2 * embedding + 2 * block
    assert of_four[START_OF_BACKWARD]["gradients"] == alone[START_OF_BACKWARD]["gradients"] // 4 + embedding
    assert of_four[END_OF_BACKWARD]["gathered"] == 4 * embedding
    assert set(of_four) - set(alone) == {END_OF_BACKWARD}


def test_a_warning_counts_with_the_ranks_that_share_the_weights():
    sizes, d20 = RunSizes("packed", 300), GPTConfig.from_depth(20, 65_536)
    assert "A model of depth" in memory_warning(d20, sizes, 6144 * MiB, device_type="cuda")
    assert memory_warning(d20, sizes, 6144 * MiB, device_type="cuda", shards=8) == ""


def test_the_states_are_those_that_the_optimizers_make():
    model = GPT(GROUPED)
    optimizers = make_optimizers(model, 0.004, 0.2, 0.02)
    model(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()
    for optimizer in optimizers:
        optimizer.step()
    tensors = [t for o in optimizers for state in o.state.values() for name, t in state.items() if name != "step"]
    assert sum(memory.state_sizes(GROUPED)) == sum(tensor.nbytes for tensor in tensors)
    assert sorted(memory.weight_sizes(GROUPED)) == sorted(weight.nbytes for weight in model.parameters())


sizes = st.integers(1, 6000)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 64), sizes, sizes, sizes, st.integers(1, 100_000), st.integers(0, 100_000), st.integers(1, 4))
def test_no_argument_makes_the_estimate_smaller_by_growing(B, T, more_T, supervised, vocab, more_vocab, depth):
    supervised = min(supervised, B * T)

    def total(depth=depth, vocab=vocab, B=B, T=T, supervised=supervised, count=1) -> int:
        config = GPTConfig.from_depth(depth, vocab)
        return estimate_memory(config, [Load(B, T, supervised)] * count).total

    least = total()
    assert least <= total(B=B + 1)
    assert least <= total(T=T + more_T)
    assert least <= total(supervised=B * T)
    assert 0.99 * least <= total(vocab=vocab + more_vocab)  # a chunk of fewer positions needs a little less scratch
    assert least <= total(depth=depth * 2)
    assert least <= total(count=2)


@pytest.mark.parametrize("batching, setting", [("packed", "device_batch_tokens"), ("padded", "device_batch_size")])
def test_a_warning_names_the_setting_and_the_largest_number_that_fits(batching, setting):
    sizes = RunSizes(batching, longest=256, device_batch_size=64, device_batch_tokens=16_384)
    said = memory_warning(D4, sizes, 300 * MiB)
    number = int(said.split(f"Set {setting} to ")[1].split(" or less")[0].replace(",", ""))

    def fitting(size: int) -> bool:
        return fits(estimate_memory(D4, replace(sizes, **{setting: size}).loads()), 300 * MiB)

    assert fitting(number) and not fitting(number + 1)
    assert "300 MiB are available" in said


def test_a_warning_names_the_length_when_one_row_alone_is_too_long():
    said = memory_warning(D4, RunSizes("packed", longest=8000), 150 * MiB)
    number = int(said.split("Set max_data_tokens to ")[1].split(" or less")[0].replace(",", ""))
    assert fits(estimate_memory(D4, RunSizes("packed", number - 1, device_batch_tokens=1).loads()), 150 * MiB)
    assert "Set max_seq_len to" in memory_warning(D4, RunSizes("stream", longest=8000), 150 * MiB)


def test_a_warning_names_a_depth_or_the_vocabulary_when_weights_alone_are_too_large():
    d20 = GPTConfig.from_depth(20, 65_536)
    assert "A model of depth 4 does." in memory_warning(d20, RunSizes("packed", 300), 1024 * MiB)
    assert "No depth does with 65,536 tokens" in memory_warning(d20, RunSizes("packed", 300), 50 * MiB)


def test_nothing_is_said_when_it_fits_or_when_nothing_is_known_about_the_machine():
    assert memory_warning(D4, RunSizes("packed", 300), 10_000 * MiB) == ""
    assert memory_warning(D4, RunSizes("packed", 300), None) == ""


@pytest.mark.parametrize("wrong", [{"batching": "sorted"}, {"longest": 0}, {"supervised_share": 1.5}])
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Unknown batching|longest must be"):
        RunSizes(**{"batching": "packed", "longest": 5, **wrong})


def test_no_micro_batch_and_an_unresolved_dtype_are_refused():
    with pytest.raises(ValueError, match="loads is empty"):
        estimate_memory(D4, [])
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'auto'"):
        estimate_memory(D4, [Load(1, 8, 8)], dtype="auto")


def test_an_estimate_is_one_line_for_people_and_a_table_for_notebooks():
    found = MemoryEstimate({"a": {"weights": 20 * MiB, "tiny": 5}, "b": {"weights": 15 * MiB + MiB // 2}}, 0)
    assert str(found) == "about 20 MiB at the peak, a (weights 20)"
    assert found.table().to_dict() == {"a": {"weights": 20.0}, "b": {"weights": 15.5}}
    assert "<table" in found._repr_html_()


def limit_group(folder: Path, names: tuple[str, str, str], limit: str, use: int, cached: int):
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{use}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cached}\n")


def test_limits_of_a_container_are_found_in_both_versions_and_in_groups_above(tmp_path):
    limit_group(tmp_path / "outer", memory.CGROUP_V2, "1000", 400, 50)
    limit_group(tmp_path / "outer/inner", memory.CGROUP_V2, "max", 300, 0)
    assert cgroup_bytes(tmp_path, "0::/outer/inner\n") == [650]
    limit_group(tmp_path / "memory", memory.CGROUP_V1, "2000", 2500, 0)  # a container sees its own group as the root
    assert cgroup_bytes(tmp_path, "4:cpu,memory:/docker/abc\n3:cpuset:/\n") == [0]


def test_memory_is_available_on_this_machine():
    assert MiB < available_bytes(torch.device("cpu")) < 2**50


def test_a_peak_that_cannot_be_reset_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "nowhere" / "clear_refs")
    assert "since it began" in PeakMemory(torch.device("cpu")).note


def test_the_peak_is_of_what_was_held_and_given_back_and_a_reset_forgets_it():
    measured = PeakMemory(torch.device("cpu"))
    if measured.note:
        pytest.skip(measured.note)
    held = torch.ones(64 * MiB)  # 256 MiB, mapped by itself
    del held
    assert 250 * MiB <= measured.peak_bytes() < 288 * MiB  # the kernel counts pages in batches, a few late
    measured.reset()
    assert measured.peak_bytes() < 32 * MiB


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [1024, 65_536])
@pytest.mark.parametrize("kind", ["padded", "bucketed", "packed", "stream"])
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(kind, vocab_size):
    command = [sys.executable, "-c", CHILD, kind, str(vocab_size)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    found = json.loads(child.stdout.splitlines()[-1])
    if found["note"] or not sys.platform.startswith("linux"):
        pytest.skip(f"Measured on Linux only. {found['note']}")
    assert 0.75 <= found["estimate"] / found["measured"] <= 1.25, found


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(memory, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 8 and result.failed == 0
