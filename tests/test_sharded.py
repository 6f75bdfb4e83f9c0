"""A model in parts is the model: with a group of one process here, with several in test_ranks.py."""

import pytest
import torch
import torch.distributed as dist

from nanolab.optim import load_states, make_optimizers, states
from nanolab.ranks import Ranks
from nanolab.sharded import gathered, is_sharded, local, on_whole_matrices, part_of, whole
from nanolab.train import backward
from tests.conftest import random_model

CPU = torch.device("cpu")
IDS = torch.arange(24).view(2, 12)


@pytest.fixture
def ranks(tmp_path):
    """The only rank of a group."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield Ranks()
    dist.destroy_process_group()


@pytest.fixture
def pair(ranks):
    """The same model twice, as it is and sharded."""
    models = random_model(300), random_model(300)
    ranks.shard(models[1], CPU)
    return models


def train_a_step(model) -> list[torch.optim.Optimizer]:
    optimizers = make_optimizers(model, 0.004, 0.2, 0.02)
    model(IDS, IDS).backward()
    for optimizer in optimizers:
        optimizer.step()
    return optimizers


def test_whole_is_an_ordinary_model_with_the_weights_as_they_are_now(pair):
    plain, sharded = pair
    for model in pair:
        train_a_step(model)
    before = torch.get_rng_state()
    found = whole(sharded)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(is_sharded(weight) for weight in found.parameters()) and not found.training
    torch.testing.assert_close(found.state_dict(), plain.state_dict())
    torch.testing.assert_close(found(IDS), plain(IDS))
    assert sharded.num_parameters() == plain.num_parameters() and sharded.device == CPU


def test_nothing_is_kept_where_nobody_needs_it(pair):
    plain, sharded = pair
    assert whole(sharded, keep=False) is sharded and whole(plain) is plain
    assert gathered(sharded.state_dict(), keep=False) == {}


def test_states_of_a_sharded_model_are_those_of_the_other_and_go_both_ways(pair):
    first, second = (states(train_a_step(model)) for model in pair)
    torch.testing.assert_close(second, first)
    assert not any(is_sharded(value) for state in second for values in state["state"].values() for value in values)
    for model, kept in zip(pair, (second, first), strict=True):
        optimizers = make_optimizers(model, 0.004, 0.2, 0.02)
        load_states(optimizers, kept)
        torch.testing.assert_close(states(optimizers), first)


def test_a_part_is_a_copy_that_does_not_hold_the_whole(pair):
    weight = pair[1].lm_head.weight
    tensor = torch.randn(weight.shape)
    part = part_of(tensor, weight)
    assert is_sharded(part) and part.placements == weight.placements
    assert local(part).untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    assert torch.equal(part.full_tensor(), tensor)
    step = torch.tensor(3.0)
    assert part_of(step, weight) is step and part_of(tensor, torch.zeros(tensor.shape)) is tensor


def test_whole_matrices_come_to_the_work_and_go_back(pair):
    weight = pair[1].transformer.h[0].mlp.c_fc.weight
    parts = torch.randn(3, *weight.shape)
    seen = []
    found = on_whole_matrices(lambda matrices: seen.append(matrices.clone()) or 2 * matrices, parts, weight)
    assert torch.equal(seen[0], parts) and torch.equal(found, 2 * parts)


def test_a_step_without_anything_supervised_leaves_a_sharded_model_without_gradient(pair):
    from nanolab.batch import IGNORE_INDEX, Batch

    batch = Batch(IDS, torch.full_like(IDS, IGNORE_INDEX), real_tokens=IDS.numel())
    assert backward(pair[1], [batch]) is None
    assert all(weight.grad is None for weight in pair[1].parameters())
