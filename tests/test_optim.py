"""Our Muon, matrices of equal shape in one batch, is torch.optim.Muon."""

import doctest
import io

import pytest
import torch

from nanolab import optim
from nanolab.optim import Muon, make_optimizers, orthogonalized, set_rates
from tests.conftest import random_model

SETTINGS = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0}
SQUARE, WIDE, TALL = (32, 32), (16, 64), (64, 16)
SHAPES = {
    "one square": [SQUARE],
    "one wide": [WIDE],
    "one tall": [TALL],
    "one row": [(1, 24)],
    "one column": [(24, 1)],
    "a model's": [SQUARE, SQUARE, SQUARE, SQUARE, TALL, WIDE, SQUARE, SQUARE, SQUARE, SQUARE, TALL, WIDE],
}


def weights_of(shapes: list, seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.1) for shape in shapes]


def set_gradients(weights: list[torch.nn.Parameter], seed: int, but: tuple[int, ...] = ()):
    """Random gradients, of very different sizes; none for the weights whose number is in `but`."""
    generator = torch.Generator().manual_seed(seed)
    for number, weight in enumerate(weights):
        gradient = torch.randn(weight.shape, generator=generator) * 10.0 ** (number % 5 - 2)
        weight.grad = None if number in but else gradient


def after_steps(make, shapes: list, steps: int = 3) -> list[torch.Tensor]:
    """The weights that `make(weights)` leaves after so many steps."""
    weights = weights_of(shapes)
    optimizer = make(weights)
    for step in range(steps):
        set_gradients(weights, seed=step)
        optimizer.step()
    return [weight.detach() for weight in weights]


def updates(after: list[torch.Tensor], shapes: list) -> list[torch.Tensor]:
    return [a - b.detach() for a, b in zip(after, weights_of(shapes), strict=True)]


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_in_bfloat16_it_is_torchs_to_the_bit(shapes, weight_decay):
    chosen = SETTINGS | {"weight_decay": weight_decay}
    ours = after_steps(lambda weights: Muon(weights, dtype=torch.bfloat16, **chosen), shapes)
    theirs = after_steps(lambda weights: torch.optim.Muon(weights, **chosen), shapes)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_in_float32_it_is_torchs_arithmetic_in_float32(shapes, weight_decay, monkeypatch):
    chosen = SETTINGS | {"weight_decay": weight_decay}
    ours = updates(after_steps(lambda weights: Muon(weights, **chosen), shapes), shapes)
    rounded = updates(after_steps(lambda weights: torch.optim.Muon(weights, **chosen), shapes), shapes)
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())  # what torch's asks for at its beginning
    theirs = updates(after_steps(lambda weights: torch.optim.Muon(weights, **chosen), shapes), shapes)
    assert largest_difference(ours, theirs) < 1e-4
    assert 1e-3 < largest_difference(ours, rounded) < 3e-2  # bfloat16's rounding, about 1 %


def test_in_float32_a_batch_gives_what_each_matrix_gives_alone():
    shapes = SHAPES["a model's"]
    together = after_steps(lambda weights: Muon(weights, **SETTINGS), shapes)
    weights = weights_of(shapes)
    alone = [Muon([weight], **SETTINGS) for weight in weights]
    for step in range(3):
        set_gradients(weights, seed=step)
        for optimizer in alone:
            optimizer.step()
    together = updates(together, shapes)
    assert largest_difference(together, updates([weight.detach() for weight in weights], shapes)) < 1e-5


@pytest.mark.parametrize("shape", [SQUARE, WIDE, TALL])
def test_orthogonalized_brings_every_singular_value_near_one_and_keeps_the_directions(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn((3, *shape), generator=generator) * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1)
    result = orthogonalized(matrices, torch.float32, (3.4445, -4.7750, 2.0315), 12)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert result.shape == matrices.shape
    turned = left.mT @ result @ right.mT  # (3, m, m): diagonal where the directions are the matrix's own
    diagonal = turned.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3
    torch.testing.assert_close(turned, torch.diag_embed(diagonal), rtol=0, atol=1e-3)


def test_a_gradient_of_zeros_moves_nothing():
    (weight,) = weights = weights_of([SQUARE])
    weight.grad = torch.zeros(SQUARE)
    Muon(weights, **SETTINGS).step()
    assert torch.equal(weight, weights_of([SQUARE])[0])


@pytest.mark.parametrize(("first", "then"), [(Muon, torch.optim.Muon), (torch.optim.Muon, Muon), (Muon, Muon)])
def test_a_saved_state_goes_on_in_either_class(first, then):
    shapes = SHAPES["a model's"]
    options = {Muon: SETTINGS | {"dtype": torch.bfloat16}, torch.optim.Muon: SETTINGS}
    weights = weights_of(shapes)
    optimizer = first(weights, **options[first])
    for step in range(3):
        if step == 2:  # go on in the other class, by way of a file
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = then(weights, **options[then])
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        set_gradients(weights, seed=step)
        optimizer.step()
    uninterrupted = after_steps(lambda weights: torch.optim.Muon(weights, **SETTINGS), shapes)
    assert all(torch.equal(a, b) for a, b in zip(weights, uninterrupted, strict=True))
    restarted = after_steps(lambda weights: torch.optim.Muon(weights, **SETTINGS | {"momentum": 0.0}), shapes)
    assert not torch.equal(restarted[0], uninterrupted[0])  # the state matters


def test_weights_without_gradient_stay_where_they_are_and_have_no_state():
    weights, untouched = weights_of([SQUARE, SQUARE, TALL]), weights_of([SQUARE, SQUARE, TALL])
    optimizer = Muon(weights, **SETTINGS | {"weight_decay": 0.1})
    set_gradients(weights, seed=0, but=(1, 2))
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(weights, untouched, strict=True)]
    assert moved == [True, False, False]
    assert [weight in optimizer.state for weight in weights] == [True, False, False]


def test_a_step_without_any_gradient_does_nothing():
    weights = weights_of([SQUARE])
    optimizer = Muon(weights, **SETTINGS)
    optimizer.step()
    assert torch.equal(weights[0], weights_of([SQUARE])[0]) and not optimizer.state


def test_learning_rate_and_momentum_of_the_groups_are_those_used():
    def scheduled(make):
        weights = weights_of(SHAPES["a model's"])
        optimizer = make(weights)
        optimizer.param_groups[0]["initial_lr"] = 0.02
        for step, momentum in enumerate((0.85, 0.9, 0.95)):
            set_rates([optimizer], 1 - step / 4, momentum)
            set_gradients(weights, seed=step)
            optimizer.step()
        return weights

    ours = scheduled(lambda weights: Muon(weights, dtype=torch.bfloat16, **SETTINGS))
    theirs = scheduled(lambda weights: torch.optim.Muon(weights, **SETTINGS))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    constant = after_steps(lambda weights: Muon(weights, dtype=torch.bfloat16, **SETTINGS), SHAPES["a model's"])
    assert not any(torch.equal(a, b) for a, b in zip(ours, constant, strict=True))


def test_groups_keep_their_own_settings():
    weights = weights_of([SQUARE, SQUARE])
    optimizer = Muon([{"params": weights[:1], "lr": 0.0}, {"params": weights[1:]}], **SETTINGS)
    set_gradients(weights, seed=0)
    optimizer.step()
    assert torch.equal(weights[0], weights_of([SQUARE, SQUARE])[0])
    assert not torch.equal(weights[1], weights_of([SQUARE, SQUARE])[1])


def test_a_models_optimizers_use_the_dtype_that_was_asked_for():
    model = random_model(300)
    for dtype in ("float32", "bfloat16"):
        _, muon = make_optimizers(model, 0.004, 0.2, 0.02, dtype=dtype)
        assert isinstance(muon, Muon) and muon.dtype == getattr(torch, dtype)


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(optim)
    assert result.attempted and not result.failed


def test_settings_of_torchs_muon_that_ours_does_not_have_are_refused():
    with pytest.raises(ValueError, match="nesterov; they cannot be set"):
        Muon([torch.nn.Parameter(torch.eye(2))], lr=0.1, nesterov=False)
