"""The benchmark of an SFT step measures what it says: one gradient in every way, no compiling while the clock runs.

What needs a GPU is written so that a processor can try all but the GPU.
"""

import importlib
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from nanolab import layout, memory
from nanolab.compiled import compiler_problem
from nanolab.convert.names import transformers_weights
from nanolab.flops import CARDS, Peak
from nanolab.gpt import GPTConfig
from nanolab.memory import state_sizes, weight_sizes
from nanolab.train import backward
from tests.conftest import random_model
from tests.test_compiled import assert_same, rows_of

ROOT = Path(__file__).parent.parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # making the name of a device needs no device
VOCAB = 320
ROWS = rows_of([30, 41, 12, 20, 33, 9, 65, 14, 50, 22, 28, 17], seed=0)  # three steps of four conversations
SMALL = ["--depth", "1", "--vocab_size", str(VOCAB), "--steps", "2", "--rounds", "1", "--device_batch_tokens", "512"]


@pytest.fixture
def sft_step(monkeypatch):
    """benchmarks/sft_step.py as a module, with steps of four conversations."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("sft_step")
    monkeypatch.setattr(module, "EXAMPLES_PER_STEP", 4)
    return module


@pytest.fixture
def one_shape(monkeypatch):
    """Static packed rows have one shape instead of four: each takes seconds to compile. Skips without a compiler."""
    if problem := compiler_problem(CPU):
        pytest.skip(f"torch.compile does not work here: {problem}")
    torch._dynamo.reset()  # what other tests have compiled in this process
    monkeypatch.setattr(layout, "SMALLEST_SHARE", 1)


def ours_of(module, *names: str):
    ways = {name: module.WAYS[name] for name in ("seed", *names)}
    return module.Ours(ways, ROWS, module.arguments(SMALL), CPU)


def gradient(ours, name: str):
    """What step 0 of a way leaves in the weights."""
    way, model = ours.ways[name], ours.models[ours.ways[name].dtype]
    model.zero_grad(set_to_none=True)
    loss = way.backward(ours.compiled.get(name, model), ours.steps[name][0], dtype=way.dtype, device=CPU)
    return loss, {key: weight.grad.clone() for key, weight in model.named_parameters()}


def run(module, capsys, *words: str) -> tuple[list[str], dict[str, list[str]]]:
    """The lines above the table, and the table's cells by way."""
    module.main([*SMALL, *words])
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert tuple(cells[0]) == module.COLUMNS
    return [line for line in lines if not line.startswith("|")], {way: rest for way, *rest in cells[2:]}


@pytest.fixture
def tokenizer_folder(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def test_our_ways_give_one_gradient_and_the_seed_its_mean_of_means(sft_step):
    ours = ours_of(sft_step, "padded", "bucketed", "packed")
    padded = gradient(ours, "padded")
    assert ours.first_loss() == pytest.approx(padded[0], rel=1e-6)
    for name in ("bucketed", "packed"):
        assert_same(gradient(ours, name), padded)
    model, batches = ours.models["float32"], ours.steps["seed"][0] + ours.steps["seed"][1]  # a micro-batch each
    model.zero_grad(set_to_none=True)
    backward(model, batches, "micro_batch")
    of_means = {key: weight.grad.clone() for key, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    sft_step.seed_backward(model, batches)
    assert_same((0, {key: weight.grad for key, weight in model.named_parameters()}), (0, of_means))


def test_a_short_run_prints_every_way(sft_step, capsys, tokenizer_folder):
    head, table = run(sft_step, capsys, "--tokenizer", tokenizer_folder, "--ways", "packed")
    assert list(table) == ["seed", "packed"]
    assert table["seed"][5] == "1.00" and table["packed"][1] == "0.0%"
    assert {name: cells[-2:] for name, cells in table.items()} == {"seed": ["-", "-"], "packed": ["-", "-"]}
    assert any(line.startswith("products of 2,048 x 2,048 matrices reach") for line in head)


@pytest.mark.slow
def test_the_compiled_way_is_the_same_step_and_compiles_nothing_while_it_is_timed(
    sft_step, one_shape, capsys, tokenizer_folder
):
    ours = ours_of(sft_step, "packed", "packed_compiled")
    assert ours.shapes == [(1, 512)]
    ours.compiled["packed_compiled"].warm_up(
        ours.shapes, "packed", "float32", most_documents=sft_step.EXAMPLES_PER_STEP
    )
    assert_same(gradient(ours, "packed_compiled"), gradient(ours, "packed"))
    assert set(ours.one_round()) == {"seed", "packed", "packed_compiled"}
    assert ours.recompiled == {"packed_compiled": 0}
    torch._dynamo.reset()  # so that not a single step is timed with what was compiled above
    capsys.readouterr()
    _, table = run(sft_step, capsys, "--tokenizer", tokenizer_folder, "--ways", "packed_compiled")
    assert table["seed"][-1] == "-" and table["packed_compiled"][-1] == "0"


def test_a_shape_that_was_not_warm_is_counted(sft_step, monkeypatch):
    ours = ours_of(sft_step, "packed_compiled")
    graphs = iter([3, 5, 5, 6])
    monkeypatch.setattr(sft_step.CompiledGPT, "recompilations", property(lambda self: next(graphs)))
    monkeypatch.setattr(sft_step, "seconds_of", lambda work, device: 1.0)
    assert ours.seconds_of_step("packed_compiled", 0) == ours.seconds_of_step("seed", 0) == 1.0
    ours.seconds_of_step("packed_compiled", 1)
    assert ours.recompiled == {"packed_compiled": 3}


def test_a_peak_is_what_a_way_needs_by_itself(sft_step, monkeypatch):
    ours = ours_of(sft_step)
    ours.seconds_of_step("seed", 0)
    done = []
    monkeypatch.setattr(sft_step, "held_bytes", lambda device: 1_000)  # of all models that wait
    monkeypatch.setattr(sft_step, "reset_peak", lambda device: done.append("reset"))
    monkeypatch.setattr(sft_step, "peak_bytes", lambda device: 5_000)
    monkeypatch.setattr(ours, "seconds_of_step", lambda name, number: done.append(number))
    config = GPTConfig.from_depth(1, VOCAB)
    steps_of_adamw = 2 * 4  # a number of 4 bytes for the embedding, and one for the head
    own = sum(weight_sizes(config)) + sum(state_sizes(config)) + steps_of_adamw
    assert ours.peaks() == {"seed": 4_000 + own} and done == ["reset", 0, 1, 2]


TOO_LARGE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity ...")


@pytest.fixture
def seed_too_large(sft_step, monkeypatch):
    """The seed's way, which ends for want of memory when its gradients are there."""
    seed_backward = sft_step.seed_backward

    def too_large(*arguments, **options):
        seed_backward(*arguments, **options)
        raise TOO_LARGE

    monkeypatch.setattr(sft_step, "WAYS", {**sft_step.WAYS, "seed": sft_step.Way(too_large, "padded")})


def test_a_way_that_does_not_fit_into_memory_is_left_out_and_named(sft_step, seed_too_large, capsys, tokenizer_folder):
    _, table = run(sft_step, capsys, "--tokenizer", tokenizer_folder, "--ways", "packed")
    assert list(table) == ["packed", "seed"]
    assert table["seed"][0] == "CUDA out of memory. Tried to allocate 20.00 GiB: not measured"
    assert table["packed"][5] == "-" and table["packed"][1] == "0.0%"


@pytest.mark.parametrize("moment", ["warm_up", "peaks", "one_round"])
def test_what_a_way_leaves_behind_that_did_not_fit_is_not_the_next_ones(sft_step, seed_too_large, moment):
    ours = ours_of(sft_step, "packed")
    getattr(ours, moment)()
    assert list(ours.ways) == ["packed"] and list(ours.too_large) == ["seed"]
    assert all(weight.grad is None for weight in ours.models["float32"].parameters())


def test_a_setting_of_trl_that_does_not_fit_is_left_out_and_named(sft_step, monkeypatch):
    monkeypatch.setattr(sft_step, "PRODUCT_SIZE", {"cpu": 64})
    done = {"slots": 9, "real": 9, "supervised": 4, "seconds_per_step": 0.1, "first_loss": 5.0}
    fits_once = iter([done])

    def trl(setting):
        if setting == "one_row" and (found := next(fits_once, None)):
            return found
        raise TOO_LARGE

    ours = ours_of(sft_step, "packed")
    found, args = ours.counts(), sft_step.arguments([*SMALL, "--rounds", "2"])
    sft_step.measure_rounds(found, ours, trl, args)
    assert list(found) == ["seed", "packed"] and all(len(way.seconds) == 2 for way in found.values())
    assert list(ours.too_large) == ["TRL padding_free", "TRL one_row"] and args.trl_settings == []


def test_the_share_is_of_the_data_sheet_where_the_card_is_known(sft_step, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    rates = {"float32": 5e13, "bfloat16": 7e14}
    measured = Peak(5e13, "the best product of this run")
    known = Peak(CARDS["H100"], "the data sheet's of H100")
    assert sft_step.shares_of(CUDA, rates) == {"float32": measured, "bfloat16": known}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card of tomorrow")
    assert sft_step.shares_of(CUDA, rates)["bfloat16"].operations == 7e14


def test_without_cuda_the_benchmark_of_it_ends_with_a_sentence(sft_step, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="device_type 'cuda' is not available on this machine; it has: .*cpu"):
        sft_step.main(["--device_type", "cuda"])


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_bench_cuda_asks_for_a_d20_on_cuda_with_what_the_benchmark_knows(sft_step):
    told = subprocess.run(["make", "-n", "bench-cuda", "DATA=/my rows", "TOK=/tok"], cwd=ROOT, capture_output=True)
    recipe = told.stdout.decode().replace("\\\n", " ").splitlines()
    (line,) = [line for line in recipe if "sft_step.py" in line]
    words = shlex.split(line.split("sft_step.py")[1].split("||")[0].replace("$task", "mixture"))
    args = sft_step.arguments(words)
    assert (args.device_type, args.depth, args.vocab_size) == ("cuda", 20, 65_536)
    assert (args.data, args.tokenizer, args.task, args.trl) == ("/my rows", "/tok", "mixture", True)
    assert args.ways == ["seed", "seed_bf16", "packed_bf16", "packed_compiled_bf16"]


def test_on_cuda_bfloat16_is_always_possible_and_trl_trains_in_it(sft_step):
    trl_peer = importlib.import_module("trl_peer")
    assert sft_step.why_not(sft_step.WAYS["packed_bf16"], CUDA) == ""
    assert trl_peer.not_here(trl_peer.SETTINGS["bf16"], CUDA) == ""
    assert trl_peer.of_device(CUDA) == {"use_cpu": False, "bf16": True, "tf32": False}
    assert {setting.dtype_on(CUDA) for setting in trl_peer.SETTINGS.values()} == {"bfloat16"}
    assert "needs CUDA and the package flash_attn" in trl_peer.not_here(trl_peer.SETTINGS["flash"], CPU)


def test_trl_begins_with_our_loss_when_it_begins_with_our_weights(sft_step, small_tokenizer, monkeypatch):
    pytest.importorskip("trl", reason='TRL is not installed: pip install -e ".[bench]"')
    monkeypatch.setattr(memory, "held_bytes", lambda device: 1_000)  # of the process, which may give memory back
    monkeypatch.setattr(memory, "peak_bytes", lambda device: 5_000)
    ours, model = ours_of(sft_step), random_model(VOCAB, depth=1)
    ours.models["float32"].load_state_dict(model.state_dict())
    done = sft_step.trl_rate(
        ROWS,
        small_tokenizer,
        model.config,
        "padding_free",
        steps=2,
        examples_per_step=4,
        weights=transformers_weights(model.state_dict()),
    )
    assert done["first_loss"] == pytest.approx(ours.first_loss(), rel=1e-5)
    assert done["supervised"] == sum(sum(mask[1:]) for _, mask in ROWS[4:])
    assert done["peak"] == 4_000
