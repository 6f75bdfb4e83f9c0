"""The loop: one denominator a step, one report a step, and rates that follow their schedule."""

import math

import pytest
import torch

from nanolab.batch import IGNORE_INDEX, Batch, Step, lay_out
from nanolab.optim import constant_then_linear, linear_to_zero, make_optimizers, muon_momentum
from nanolab.train import backward, train
from tests.conftest import random_model

LRS = {"unembedding_lr": 0.004, "embedding_lr": 0.2, "matrix_lr": 0.02}


def random_rows(count: int, seed: int = 0) -> list:
    """(ids, mask) of very different lengths and shares of supervised tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 40, (count,), generator=generator).tolist()
    rows = [torch.randint(0, 300, (n,), generator=generator).tolist() for n in lengths]
    return [(ids, [int(k >= len(ids) // 2 + i % 3) for k in range(len(ids))]) for i, ids in enumerate(rows)]


def gradients(model, batches, **options):
    model.zero_grad(set_to_none=True)
    loss = backward(model, batches, **options)
    return loss, [weight.grad.clone() for weight in model.parameters()]


def relative_difference(ours, theirs) -> float:
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("device_batch_size", [1, 2, 5, 8])
def test_the_split_into_micro_batches_does_not_change_the_gradient(device_batch_size):
    model, rows = random_model(300), random_rows(8)
    whole_loss, whole = gradients(model, lay_out(rows, pad_id=7, device_batch_size=8))
    loss, split = gradients(model, lay_out(rows, pad_id=7, device_batch_size=device_batch_size))
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert relative_difference(split, whole) < 1e-5


def test_the_mean_of_means_is_another_gradient_unless_counts_are_equal():
    model, rows = random_model(300), random_rows(8)
    uneven = lay_out(rows, pad_id=7, device_batch_size=2)
    _, per_step = gradients(model, uneven)
    _, per_micro_batch = gradients(model, uneven, loss_average="micro_batch")
    assert relative_difference(per_micro_batch, per_step) > 1e-2
    even = lay_out([rows[0]] * 4, pad_id=7, device_batch_size=2)
    _, per_step = gradients(model, even)
    _, per_micro_batch = gradients(model, even, loss_average="micro_batch")
    assert relative_difference(per_micro_batch, per_step) < 1e-5


def test_the_mean_of_means_is_nanochats_loss_divided_by_accumulation_steps():
    model = random_model(300)
    batches = lay_out(random_rows(6), pad_id=7, device_batch_size=2)
    model.zero_grad(set_to_none=True)
    for batch in batches:
        (model(batch.inputs, batch.targets) / len(batches)).backward()
    seed = [weight.grad.clone() for weight in model.parameters()]
    _, ours = gradients(model, batches, loss_average="micro_batch")
    assert relative_difference(ours, seed) < 1e-5


def test_unknown_average_is_refused():
    with pytest.raises(ValueError, match="loss_average"):
        backward(random_model(300), lay_out(random_rows(2), pad_id=7), loss_average="tokens")


def steps_of(rows, count=4):
    return [Step(lay_out(rows, pad_id=7, device_batch_size=2), num_conversations=len(rows)) for _ in range(count)]


def schedule(step):
    return linear_to_zero(step, 4), None


def test_training_lowers_the_loss_and_reports_what_it_did():
    model, rows = random_model(300), random_rows(4)
    reports = list(train(model, make_optimizers(model, **LRS), steps_of(rows), schedule))
    assert [report.step for report in reports] == [0, 1, 2, 3]
    assert [report.lr_multiplier for report in reports] == [1.0, 0.75, 0.5, 0.25]
    assert reports[-1].loss < reports[0].loss - 0.5
    first = reports[0]
    assert first.num_tokens == sum(sum(mask[1:]) for _, mask in rows)
    assert first.real_tokens == sum(len(ids) - 1 for ids, _ in rows)
    assert first.slots == steps_of(rows)[0].slots > first.real_tokens
    assert first.micro_batches == 2 and first.num_conversations == 4 and first.seconds > 0
    assert (
        first.line(4)
        == f"Step 00000/00004 | Training loss: {first.loss:.3f} | lrm: 1.000 | num_tokens: {first.num_tokens}"
    )


def test_the_first_loss_is_the_plain_mean_over_the_steps_supervised_tokens():
    model, rows = random_model(300), random_rows(4)
    with torch.no_grad():
        batches = lay_out(rows, pad_id=7, device_batch_size=1)
        expected = sum(model(b.inputs, b.targets, loss_reduction="sum").item() for b in batches)
    report = next(train(model, make_optimizers(model, **LRS), steps_of(rows), schedule))
    assert report.loss == pytest.approx(expected / report.num_tokens, rel=1e-5)


def test_a_step_without_supervised_tokens_moves_nothing_and_says_so():
    model = random_model(300)
    before = [weight.clone() for weight in model.parameters()]
    empty = Batch(torch.zeros(2, 5, dtype=torch.long), torch.full((2, 5), IGNORE_INDEX), real_tokens=10)
    optimizers = make_optimizers(model, **LRS)
    reports = list(train(model, optimizers, [Step([empty]), Step([])], schedule))
    assert [report.loss for report in reports] == [None, None]
    assert "no supervised token" in reports[0].line(2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not optimizers[0].state and not optimizers[1].state


def test_an_unsupervised_micro_batch_among_others_adds_nothing():
    model, rows = random_model(300), random_rows(4)
    batches = lay_out(rows, pad_id=7, device_batch_size=2)
    empty = Batch(torch.zeros(2, 5, dtype=torch.long), torch.full((2, 5), IGNORE_INDEX), real_tokens=10)
    _, without = gradients(model, batches)
    _, with_it = gradients(model, [empty, *batches])
    assert relative_difference(with_it, without) == 0


def test_a_loss_that_is_not_finite_stops_before_any_weight_moves():
    model = random_model(300)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] = math.nan
    head = model.lm_head.weight.clone()
    with pytest.raises(FloatingPointError, match="Step 0: the loss is nan"):
        next(train(model, make_optimizers(model, **LRS), steps_of(random_rows(2)), schedule))
    assert torch.equal(head, model.lm_head.weight)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing_and_names_the_rows(bad):
    model, steps = random_model(300), steps_of(random_rows(2))
    steps[0].rows = [f"GSM8K main/train row {k}" for k in range(7)]
    before = [weight.clone() for weight in model.parameters()]
    model.lm_head.weight.register_hook(lambda gradient: torch.full_like(gradient, bad))
    message = "Step 0: the gradient's norm is (nan|inf).*GSM8K main/train row 4 and 2 more"
    with pytest.raises(FloatingPointError, match=message):
        next(train(model, make_optimizers(model, **LRS), steps, schedule))
    assert all(map(torch.equal, model.parameters(), before))
    assert all(weight.grad is None for weight in model.parameters())


def test_clipping_reports_the_norm_before_it():
    model, rows = random_model(300), random_rows(4)
    report = next(train(model, make_optimizers(model, **LRS), steps_of(rows), schedule, grad_clip=1.0))
    _, gradient = gradients(random_model(300), lay_out(rows, pad_id=7, device_batch_size=2))
    assert report.grad_norm == pytest.approx(torch.cat([g.flatten() for g in gradient]).norm().item(), rel=1e-4)


def test_clipping_bounds_how_far_one_plain_step_moves_the_weights():
    moved = {}
    for grad_clip in (0.0, 0.01):
        model, rows = random_model(300), random_rows(4)
        before = [weight.clone() for weight in model.parameters()]
        sgd = torch.optim.SGD(model.parameters(), lr=1.0)
        sgd.param_groups[0]["initial_lr"] = 1.0
        next(train(model, [sgd], steps_of(rows), lambda step: (1.0, None), grad_clip=grad_clip))
        change = [(a - b).flatten() for a, b in zip(model.parameters(), before, strict=True)]
        moved[grad_clip] = torch.cat(change).norm().item()
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3) and moved[0.0] > 0.1


def test_learning_rates_scale_with_width_for_adamw_and_not_for_muon():
    model = random_model(300)  # n_embd 128
    adamw, muon = make_optimizers(model, **LRS, init_lr_frac=0.5)
    scale = (128 / 768) ** -0.5
    assert [group["lr"] for group in adamw.param_groups] == pytest.approx([0.002 * scale, 0.1 * scale])
    assert muon.param_groups[0]["lr"] == 0.01
    owned = {id(p) for o in (adamw, muon) for group in o.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.parameters()}


def test_schedules_at_their_corners():
    assert [linear_to_zero(s, 10) for s in (0, 3, 9)] == pytest.approx([1.0, 0.7, 0.1])
    assert [constant_then_linear(s, 100) for s in (0, 80, 90, 100)] == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert [muon_momentum(s) for s in (0, 150, 300, 9999)] == pytest.approx([0.85, 0.9, 0.95, 0.95])


def test_muons_momentum_follows_the_schedule():
    model, rows = random_model(300), random_rows(2)
    reports = list(train(model, make_optimizers(model, **LRS), steps_of(rows, 2), lambda s: (1.0, muon_momentum(s))))
    assert [report.muon_momentum for report in reports] == pytest.approx([0.85, 0.85 + 0.1 / 300])


def test_a_later_first_step_continues_the_schedule():
    model, rows = random_model(300), random_rows(2)
    reports = list(train(model, make_optimizers(model, **LRS), steps_of(rows, 2), schedule, first_step=2))
    assert [(report.step, report.lr_multiplier) for report in reports] == [(2, 0.5), (3, 0.25)]
