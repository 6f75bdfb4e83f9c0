"""A compiled model is the same model, and after the warm-up nothing is compiled any more.

Slow: a shape takes 5 to 15 seconds the first time, however small. So all tests share one model and its two shapes.
"""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.utils import counters

from nanolab.batch import lay_out
from nanolab.compiled import CompiledGPT, compiler_problem
from nanolab.layout import possible_shapes
from nanolab.ranks import Ranks
from nanolab.train import backward
from tests.conftest import random_model

pytestmark = pytest.mark.slow

STATIC = {"batching": "packed", "pad_id": 7, "device_batch_tokens": 64, "static_shapes": True}
SHAPES = [(1, 32), (1, 64)]  # those that the steps below have, of all that are possible


def rows_of(lengths: list[int], seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(300, (n,), generator=generator).tolist() for n in lengths]
    return [(row, [int(k > len(row) // 3) for k in range(len(row))]) for row in ids]


STEPS = [  # slots of the conversations, and what they come to: 64 + 32, 64, 64 + 64 + 32
    lay_out(rows_of([30, 31, 20, 12], seed=0), **STATIC),
    lay_out(rows_of([41, 4, 2, 15], seed=1), **STATIC),
    lay_out(rows_of([65, 33, 33, 20, 9], seed=2), **STATIC),
]


@pytest.fixture(scope="module")
def works():
    """Skips where no compiler does."""
    problem = compiler_problem(torch.device("cpu"))
    if problem:
        pytest.skip(f"torch.compile does not work here: {problem}")


@pytest.fixture(scope="module")
def warm(works):
    """A model of two layers compiled for two shapes of packed rows; what it said, compiled and left behind."""
    torch._dynamo.reset()  # what another file's tests compiled in this process would be missing from the count
    model, said, graphs = random_model(300, depth=2), [], counters["stats"]["unique_graphs"]
    compiled = CompiledGPT(model)
    compiled.warm_up(reversed(SHAPES), "packed", "float32", said.append)
    gradients_left = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return compiled, said, counters["stats"]["unique_graphs"] - graphs, gradients_left


def gradients(forward, model, batches, dtype="float32"):
    model.zero_grad(set_to_none=True)
    loss = backward(forward, batches, dtype=dtype, device=model.device)
    return loss, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def assert_same(ours, eager, loss_tolerance=1e-6, gradient_tolerance=1e-5):
    assert ours[0] == pytest.approx(eager[0], rel=loss_tolerance)
    apart = {name: ((ours[1][name] - g).norm() / g.norm()).item() for name, g in eager[1].items()}
    assert {name: d for name, d in apart.items() if not d < gradient_tolerance} == {}


def test_the_steps_have_the_shapes_that_are_warm():
    assert [[tuple(b.inputs.shape) for b in step] for step in STEPS] == [
        [(1, 64), (1, 32)],
        [(1, 64)],
        [(1, 64), (1, 64), (1, 32)],
    ]
    assert set(SHAPES) < set(possible_shapes("packed", 64, longest=64))


def test_the_warm_up_says_what_it_does_and_leaves_no_gradient(warm):
    compiled, said, _, gradients_left = warm
    assert gradients_left == []
    assert said[0] == "Compiling for 2 shapes: 1 x 32, 1 x 64 ..." and said[1].startswith("Compiled in ")
    assert compiled.warm_shapes == SHAPES and compiled.warm_seconds > 0


def test_a_block_is_compiled_once_a_shape_for_all_layers(warm):
    _, _, graphs, _ = warm
    assert 3 <= graphs <= 5  # 2 of the block, the others of the loss's work on a tile; with one a layer, 6 or more


def test_compiled_equals_eager_and_compiles_nothing_after_the_warm_up(warm):
    compiled = warm[0]
    for step in [*STEPS, *STEPS]:
        assert_same(gradients(compiled, compiled.model, step), gradients(compiled.model, compiled.model, step))
        assert compiled.recompilations == 0


@pytest.fixture
def replica(warm, tmp_path):
    """The warm model as ranks wrap it, in a group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield Ranks(world_size=2).replica(warm[0].model)  # a single rank has none, so it is told of two
    warm[0].model.zero_grad(set_to_none=True)
    dist.destroy_process_group()


def test_compiled_with_a_replica_equals_eager_and_compiles_nothing_more(warm, replica):
    compiled, model = warm[0], warm[0].model
    for step in [*STEPS, *STEPS]:
        eager = gradients(model, model, step)
        model.zero_grad(set_to_none=True)
        for _ in range(2):  # the second time gradients stay in their place, as in train
            loss = backward(compiled, step, device=model.device, replica=compiled.calling(replica))
            ours = loss, {name: weight.grad.clone() for name, weight in model.named_parameters()}
            assert_same(ours, eager)
            assert compiled.recompilations == 0
            model.zero_grad(set_to_none=False)


def test_a_micro_batch_with_one_supervised_token_compiles_nothing_either(warm):
    compiled = warm[0]
    for count in (1, 2, 31):
        rows = [(ids, [0] * (len(ids) - count) + [1] * count) for ids, _ in rows_of([64], seed=3)]
        step = lay_out(rows, **STATIC)
        assert_same(gradients(compiled, compiled.model, step), gradients(compiled.model, compiled.model, step))
    assert compiled.recompilations == 0


def test_the_weights_are_the_models_own(warm):
    compiled = warm[0]
    before = gradients(compiled, compiled.model, STEPS[0])[0]
    with torch.no_grad():
        compiled.model.transformer.h[0].mlp.c_fc.weight.mul_(2)
    assert gradients(compiled, compiled.model, STEPS[0])[0] != pytest.approx(before, rel=1e-4)
    assert_same(gradients(compiled, compiled.model, STEPS[0]), gradients(compiled.model, compiled.model, STEPS[0]))


def test_a_new_shape_counts_as_a_recompilation_and_is_right_all_the_same_here_in_bfloat16(warm):
    compiled = warm[0]
    step = lay_out(rows_of([7, 1, 5, 4], seed=4), **STATIC)
    assert [tuple(b.inputs.shape) for b in step] == [(1, 16)]
    exact = gradients(compiled.model, compiled.model, step)
    eager = gradients(compiled.model, compiled.model, step, "bfloat16")
    ours = gradients(compiled, compiled.model, step, "bfloat16")
    assert compiled.recompilations >= 1
    assert_same(ours, eager, loss_tolerance=1e-3, gradient_tolerance=0.03)
    assert_same(ours, exact, loss_tolerance=1e-2, gradient_tolerance=0.1)
    assert ours[0] != exact[0]


def test_a_missing_compiler_is_reported_in_one_line(tmp_path):
    code = "import torch; from nanolab.compiled import compiler_problem; print(compiler_problem(torch.device('cpu')))"
    changed = {"CXX": str(tmp_path / "no-such-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | changed, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (line,) = ran.stdout.splitlines()
    assert line != "None" and "compiler" in line.lower() and len(line) < 300
