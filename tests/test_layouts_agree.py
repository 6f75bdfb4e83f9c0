"""A step's gradient is the same however its conversations are laid out: the claim that all of this speed rests on."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolab import layout
from nanolab.batch import IGNORE_INDEX, StepDataset, lay_out, pad_batch
from nanolab.gpt import GPT
from nanolab.tasks import sft_mixture
from nanolab.train import backward
from tests.conftest import random_model

REAL = os.environ.get("NANOLAB_DATA", "toy")
real = pytest.mark.skipif(
    not Path(REAL, "gsm8k").is_dir(), reason="NANOLAB_DATA does not name a directory with the real data sets"
)

# The layouts of one step, as keyword arguments; the first is what the others are compared with.
LAYOUTS = [
    {"batching": "padded", "device_batch_size": 64},
    {"batching": "padded", "device_batch_size": 1},
    {"batching": "padded", "device_batch_size": 3},
    {"batching": "padded", "device_batch_size": 4, "static_shapes": True},
    {"batching": "bucketed", "device_batch_tokens": 1},  # one conversation a micro-batch
    {"batching": "bucketed", "device_batch_tokens": 200},
    {"batching": "bucketed", "device_batch_tokens": 4_096},
    {"batching": "bucketed", "device_batch_tokens": 512, "static_shapes": True},
    {"batching": "packed", "device_batch_tokens": 1},
    {"batching": "packed", "device_batch_tokens": 200},
    {"batching": "packed", "device_batch_tokens": 4_096},
    {"batching": "packed", "device_batch_tokens": 512, "static_shapes": True},
]
MODEL = random_model(520)  # ids of the small tokenizers and of random rows


def name_of(options: dict) -> str:
    return ", ".join(str(value) for value in options.values())


def gradients(model: GPT, batches: list, **options) -> tuple[float, dict[str, torch.Tensor]]:
    """The step's loss, and the gradient of every weight by name."""
    model.zero_grad(set_to_none=True)
    loss = backward(model, batches, **options)
    return loss, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """|a - b| / |b| of every weight's gradient."""
    assert ours.keys() == theirs.keys()
    return {name: ((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs}


def assert_same_step(found: tuple, expected: tuple):
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert {name: d for name, d in difference(found[1], expected[1]).items() if not d < 1e-5} == {}
    assert all(gradient.norm() > 0 for gradient in expected[1].values())  # or equality would say nothing


def random_rows(lengths: list[int], seed: int) -> list:
    """(ids, mask) of these lengths: some unsupervised at all, some everywhere, most in runs as replies are."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i, length in enumerate(lengths):
        ids = torch.randint(500, (length,), generator=generator).tolist()
        run = 1 + i % 7
        rows.append((ids, [int(i % 5 != 1 and (i % 5 == 2 or k // run % 2)) for k in range(length)]))
    return rows


ROWS = random_rows([90, 4, 31, 2, 1, 200, 17, 64, 65, 128, 9, 40], seed=0)
SUPERVISED = sum(sum(mask[1:]) for _, mask in ROWS)


@pytest.fixture(scope="module")
def expected():
    return gradients(MODEL, lay_out(ROWS, pad_id=7, **LAYOUTS[0]))


@pytest.mark.parametrize("options", LAYOUTS[1:], ids=name_of)
def test_every_weights_gradient_is_the_same_in_every_layout(options, expected):
    assert_same_step(gradients(MODEL, lay_out(ROWS, pad_id=7, **options)), expected)


@pytest.mark.parametrize("options", LAYOUTS, ids=name_of)
def test_every_layout_counts_the_same_supervised_and_real_tokens(options):
    batches = lay_out(ROWS, pad_id=7, **options)
    assert sum(b.num_tokens for b in batches) == SUPERVISED
    assert sum(b.real_tokens for b in batches) == sum(len(ids) - 1 for ids, _ in ROWS)


@pytest.mark.parametrize("pad_id", [0, 7, 519])
@pytest.mark.parametrize("options", [LAYOUTS[0], LAYOUTS[7], LAYOUTS[11]], ids=name_of)
def test_what_padding_is_made_of_does_not_matter(pad_id, options, expected):
    assert_same_step(gradients(MODEL, lay_out(ROWS, pad_id=pad_id, **options)), expected)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.integers(0, 99),
    st.sampled_from(layout.BATCHINGS),
    st.integers(1, 5),
    st.integers(1, 150),
    st.booleans(),
)
def test_every_weights_gradient_is_the_same_on_random_rows(lengths, seed, batching, size, tokens, static):
    rows = random_rows([20, *lengths], seed)  # the first has something to learn
    laid = lay_out(rows, batching, pad_id=7, device_batch_size=size, device_batch_tokens=tokens, static_shapes=static)
    assert_same_step(gradients(MODEL, laid), gradients(MODEL, lay_out(rows, pad_id=7, device_batch_size=64)))


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(len(ROWS))), st.sets(st.integers(1, len(ROWS) - 1)))
def test_any_order_and_any_split_into_micro_batches_gives_the_same_gradient(expected, order, cuts):
    bounds = [0, *sorted(cuts), len(ROWS)]
    groups = [[ROWS[i] for i in order[a:b]] for a, b in zip(bounds, bounds[1:], strict=False)]
    batches = [pad_batch(group, pad_id=7) for group in groups if max(len(ids) for ids, _ in group) > 1]
    assert_same_step(gradients(MODEL, batches), expected)


@pytest.mark.parametrize("options", [LAYOUTS[2], LAYOUTS[5], LAYOUTS[9]], ids=name_of)
def test_the_mean_of_micro_batch_means_depends_on_the_layout(options, expected):
    loss, found = gradients(MODEL, lay_out(ROWS, pad_id=7, **options), loss_average="micro_batch")
    assert min(difference(found, expected[1]).values()) > 1e-2
    assert loss != pytest.approx(expected[0], rel=1e-3)


@pytest.mark.parametrize("batching", layout.BATCHINGS)
def test_the_shares_of_two_processes_add_up_to_the_whole(batching, expected):
    shares = []
    for rank in range(2):
        batches = lay_out(ROWS[rank::2], batching, pad_id=7, device_batch_size=2, device_batch_tokens=100)
        share = sum(b.num_tokens for b in batches) / SUPERVISED  # of the one denominator of the step
        loss, found = gradients(MODEL, batches)
        shares.append((share, loss * share, {name: g * share for name, g in found.items()}))
    (share, loss, first), (other_share, other_loss, second) = shares
    assert share + other_share == 1 and abs(share - other_share) > 0.1  # a plain mean of the two would be wrong
    assert_same_step((loss + other_loss, {name: first[name] + second[name] for name in first}), expected)


def test_a_step_in_which_only_one_token_is_supervised_is_the_same_in_every_layout():
    rows = [(ids, [0] * len(ids)) for ids, _ in ROWS]
    rows[5] = (rows[5][0], [0] * 199 + [1])  # the last of the longest
    expected = gradients(MODEL, lay_out(rows, pad_id=7, **LAYOUTS[0]))
    for options in LAYOUTS[1:]:
        assert_same_step(gradients(MODEL, lay_out(rows, pad_id=7, **options)), expected)


def test_a_token_that_is_missing_would_be_noticed(expected):
    laid = lay_out(ROWS, "packed", pad_id=7)[0]
    learned = (laid.targets != IGNORE_INDEX).nonzero()[-1]
    laid.targets[tuple(learned)] = IGNORE_INDEX
    assert max(difference(gradients(MODEL, [laid])[1], expected[1]).values()) > 1e-3


# --- rows as they are trained on -------------------------------------------------------------------------------------


def assert_all_layouts_agree(mixture, tokenizer, num_examples: int, layouts: list[dict]):
    """Step 1 of the mixture, by StepDataset: the same loss, gradients and counts in all layouts."""
    steps = [StepDataset(mixture, tokenizer, num_examples, max_data_tokens=600, **options)[1] for options in layouts]
    expected = gradients(MODEL, steps[0].batches)
    for step in steps[1:]:
        assert_same_step(gradients(MODEL, step.batches), expected)
    counts = {(step.num_tokens, step.real_tokens, step.num_conversations, tuple(step.left_out)) for step in steps}
    assert len(counts) == 1 and steps[0].num_tokens > 100
    assert len({step.slots for step in steps}) > 3  # they were not all the same layout


SOME = [LAYOUTS[2], LAYOUTS[3], LAYOUTS[6], LAYOUTS[7], LAYOUTS[10], LAYOUTS[11]]


def test_all_layouts_agree_on_the_toy_mixture(small_tokenizer):
    assert_all_layouts_agree(sft_mixture(data="toy"), small_tokenizer, 12, SOME)


@real
def test_all_layouts_agree_on_the_real_mixture(small_tokenizer):
    assert_all_layouts_agree(sft_mixture(data=REAL), small_tokenizer, 12, SOME)
