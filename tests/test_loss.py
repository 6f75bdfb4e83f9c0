"""The loss over supervised positions, in chunks and tiles, is the plain formula's, and so are its gradients."""

import contextlib
import doctest
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nanolab import loss
from nanolab.batch import IGNORE_INDEX
from nanolab.loss import plain_cross_entropy, supervised_cross_entropy

SOFTCAP = 15.0
C = 8
# A token that is nearly certain costs nearly nothing, and float32 keeps few digits of the differences this is:
ROUNDING_OF_LOGITS = 4e-6  # nats a token; of numbers up to 2 * SOFTCAP, whose float32 neighbours are 2e-6 away
ROUNDING_OF_ONE = 1e-6  # of the gradient; of probabilities near 1, whose neighbours are 6e-8 away, times a weight


def problem(N: int, V: int, seed: int = 0, scale: float = 1.0, ignored: int = 3, C: int = C):
    """(1, N + ignored, C) hidden states, a (V, C) head, and targets in random places, N of them supervised."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, N + ignored, C, generator=generator)
    head = torch.randn(V, C, generator=generator) * scale
    targets = torch.randint(V, (1, N + ignored), generator=generator)
    targets[0, torch.randperm(N + ignored, generator=generator)[:ignored]] = IGNORE_INDEX
    return hidden, head, targets


def value_and_gradients(function, hidden, head, targets, softcap=SOFTCAP, weight=1.0):
    """The loss, and the gradients of `weight` times it with respect to hidden and head."""
    hidden, head = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    value = function(hidden, head, targets, softcap)
    (value * weight).backward()
    return value.item(), hidden.grad, head.grad


def definition(hidden, head, targets, softcap):
    """The formula of a textbook in float64, one sum at a time, without cross_entropy or ignore_index."""
    logits = softcap * torch.tanh(hidden.double() @ head.double().T / softcap)  # (1, T, V)
    chosen = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0]  # (1, T)
    return ((logits.exp().sum(-1).log() - chosen) * (targets != IGNORE_INDEX)).sum()


def assert_same(ours, theirs, loss_tolerance=1e-6, gradient_tolerance=1e-5):
    assert ours[0] == pytest.approx(theirs[0], rel=loss_tolerance, abs=ROUNDING_OF_LOGITS * ours[1].size(1))
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (a - b).norm() <= gradient_tolerance * b.norm() + ROUNDING_OF_ONE


@contextlib.contextmanager
def cut_small(tile: int, chunk_positions: int, V: int):
    """Tiles of `tile` vocabulary entries and chunks of `chunk_positions` positions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loss.TILE, "cpu", tile)
        patch.setattr(loss, "LANES", 1)
        patch.setattr(loss, "CHUNK_LOGITS", chunk_positions * V)
        yield


@pytest.mark.parametrize("N", [1, 2, 33, 100])
@pytest.mark.parametrize(
    "V", [1, 63, 64, 65, 300, 320]
)  # below, at and above a tile; with and without a short last one
@pytest.mark.parametrize("chunk_positions", [1000, 32, 7])  # one chunk, some, many
def test_loss_and_gradients_equal_the_plain_formula_whatever_the_cut(N, V, chunk_positions):
    given_problem = problem(N, V)
    with cut_small(64, chunk_positions, V):
        ours = value_and_gradients(supervised_cross_entropy, *given_problem)
    plain = value_and_gradients(plain_cross_entropy, *given_problem)
    if V == 1:  # one word, always right: the loss and its gradients are 0
        assert ours[0] == pytest.approx(0, abs=1e-5) and ours[1].abs().max() < 1e-6 and ours[2].abs().max() < 1e-5
    else:
        assert_same(ours, plain)


@pytest.mark.parametrize(("N", "V"), [(1, 300), (33, 300), (300, 4_099), (70, 65_536)])
def test_loss_and_gradients_equal_the_definition_in_float64_with_the_cut_that_training_uses(N, V):
    given_problem = problem(
        N, V, scale=0.3, C=128
    )  # at C = 8 float32 products over 65,536 words are 2e-5 off, plain or not
    ours = value_and_gradients(supervised_cross_entropy, *given_problem)
    assert_same(ours, value_and_gradients(definition, *given_problem))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40), st.integers(2, 70), st.integers(1, 80), st.integers(1, 50), st.integers(0, 5), st.integers(0, 9)
)
def test_no_cut_and_no_size_changes_the_loss(N, V, tile, chunk_positions, ignored, seed):
    given_problem = problem(N, V, seed, ignored=ignored)
    with cut_small(tile, chunk_positions, V):
        ours = value_and_gradients(supervised_cross_entropy, *given_problem)
    assert_same(ours, value_and_gradients(definition, *given_problem))


def test_chunks_cover_all_positions_once_in_multiples_of_lanes():
    for N in (0, 1, 31, 32, 33, 600, 5000):
        chunks = loss._chunks(N, 2**16)
        assert [n for chunk in chunks for n in range(N)[chunk]] == list(range(N))
        assert all((chunk.stop - chunk.start) % loss.LANES == 0 for chunk in chunks[:-1])


@contextlib.contextmanager
def few_sizes():
    """The processor treated as a device that keeps something of every shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "KEEPS_GRAPHS", ("cpu",))
        yield


@pytest.mark.parametrize("ignored", [0, 3, 200])
@pytest.mark.parametrize("N", [0, 1, 32, 33, 300])
def test_positions_added_for_few_sizes_change_nothing(N, ignored):
    hidden, head, targets = problem(N, 300, ignored=ignored)
    hidden[targets == IGNORE_INDEX] = math.nan  # what is added must not be looked at
    clean = hidden.nan_to_num()
    with few_sizes(), cut_small(64, 70, 300):
        ours = value_and_gradients(supervised_cross_entropy, hidden, head, targets)
        with torch.no_grad():
            measured = supervised_cross_entropy(hidden, head, targets, SOFTCAP).item()
    assert_same(ours, value_and_gradients(definition, clean, head, targets))
    assert measured == pytest.approx(ours[0], rel=1e-6)


class Shapes(TorchDispatchMode):
    """Notes the shapes that the results of operators have."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, list | tuple) else [result]
        self.found |= {tuple(x.shape) for x in made if isinstance(x, torch.Tensor)}
        return result


def test_in_few_sizes_the_shapes_of_two_hundred_batches_are_few():
    problems = [problem(N, 100, ignored=1024 - N) for N in range(200, 600, 2)]
    found = {}
    for name, how in (("few", few_sizes), ("free", contextlib.nullcontext)):
        with how(), Shapes() as shapes:
            for each in problems:
                value_and_gradients(supervised_cross_entropy, *each)
        found[name] = len(shapes.found)
    assert found["few"] < 100 < 1_000 < found["free"], found


def test_few_sizes_are_less_than_a_quarter_more():
    sizes = [loss.in_few_sizes(N) for N in range(1, 20_000)]
    assert all(N <= size < max(1.25 * N, N + loss.LANES) for N, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes) and len(set(sizes)) < 40


def test_targets_at_the_edges_of_tiles_are_found():
    V, tile = 300, 64
    edges = [0, 63, 64, 127, 128, 191, 192, 255, 256, 299]
    hidden, head, _ = problem(len(edges), V, ignored=0)
    targets = torch.tensor([edges])
    with cut_small(tile, 4, V):
        ours = value_and_gradients(supervised_cross_entropy, hidden, head, targets)
    assert_same(ours, value_and_gradients(definition, hidden, head, targets))
    logits = SOFTCAP * torch.tanh(hidden @ head.T / SOFTCAP)  # each position's own loss, from the full array
    expected = [F.cross_entropy(logits[0, k], targets[0, k]).item() for k in range(len(edges))]
    with cut_small(tile, 4, V):
        each = [supervised_cross_entropy(hidden[:, [k]], head, targets[:, [k]], SOFTCAP).item() for k in range(10)]
    assert each == pytest.approx(expected, rel=1e-5)


def test_equal_targets_add_up_in_the_heads_gradient():
    hidden, head, targets = problem(33, 300, ignored=0)
    targets.fill_(64)
    with cut_small(64, 10, 300):
        ours = value_and_gradients(supervised_cross_entropy, hidden, head, targets)
    assert_same(ours, value_and_gradients(definition, hidden, head, targets))


@pytest.mark.parametrize("chunk_positions", [1000, 7])
def test_logits_far_beyond_the_softcap_give_finite_and_right_numbers(chunk_positions):
    hidden, head, targets = problem(40, 300, scale=120.0)
    assert (hidden @ head.T).abs().max() > 1000
    with cut_small(64, chunk_positions, 300):
        ours = value_and_gradients(supervised_cross_entropy, hidden, head, targets)
    assert_same(ours, value_and_gradients(definition, hidden, head, targets))
    assert ours[0] > 300  # nats: some targets are as wrong as the softcap allows


def test_a_target_that_is_certain_costs_nothing_and_one_that_is_ruled_out_twice_the_softcap():
    hidden = torch.ones(1, 2, C)
    head = torch.stack([torch.full((C,), 1000.0), torch.full((C,), -1000.0)])
    right, wrong = torch.tensor([[0, 0]]), torch.tensor([[1, 1]])
    assert supervised_cross_entropy(hidden, head, right, SOFTCAP).item() == pytest.approx(0, abs=1e-5)
    assert supervised_cross_entropy(hidden, head, wrong, SOFTCAP).item() == pytest.approx(2 * 2 * SOFTCAP, rel=1e-6)
    _, grad_hidden, grad_head = value_and_gradients(supervised_cross_entropy, hidden, head, wrong)
    assert grad_hidden.abs().max() == 0 and grad_head.abs().max() == 0  # the softcap is flat out there


@pytest.mark.parametrize("softcap", [1.0, 15.0, 30.0, 40.0])
def test_every_softcap_that_is_allowed_works(softcap):
    hidden, head, targets = problem(40, 300, scale=3.0)
    ours = value_and_gradients(supervised_cross_entropy, hidden, head, targets, softcap)
    assert_same(ours, value_and_gradients(definition, hidden, head, targets, softcap))


@pytest.mark.parametrize("softcap", [0.0, -15.0, 40.1, math.inf, math.nan])
def test_a_softcap_that_would_overflow_or_mean_nothing_is_refused(softcap):
    with pytest.raises(ValueError, match="softcap must be above 0 and at most 40"):
        supervised_cross_entropy(*problem(4, 30), softcap)


@pytest.mark.parametrize("weight", [0.0, 1 / 832, -3.0])
def test_the_gradient_is_scaled_by_what_stands_above_the_loss(weight):
    ours = value_and_gradients(supervised_cross_entropy, *problem(40, 300), weight=weight)
    theirs = value_and_gradients(definition, *problem(40, 300), weight=weight)
    assert_same(ours, theirs)
    assert (ours[2].abs().max() > 0) == (weight != 0)


def test_two_losses_of_one_head_add_their_gradients():
    first, second = problem(20, 300, seed=1), problem(30, 300, seed=2)
    head, expected = first[1].clone().requires_grad_(), torch.zeros(300, C)
    for weight, (hidden, _, targets) in ((0.25, first), (0.75, second)):
        (weight * supervised_cross_entropy(hidden, head, targets, SOFTCAP)).backward()
        expected += value_and_gradients(definition, hidden, head.detach(), targets, weight=weight)[2]
    assert (head.grad - expected).norm() <= 1e-5 * expected.norm()


def test_a_second_backward_through_one_loss_raises_instead_of_scaling_twice():
    hidden, head, targets = problem(20, 300)
    value = supervised_cross_entropy(hidden, head.requires_grad_(), targets, SOFTCAP)
    (2 * value).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("N", [0, 1, 33])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_loss_is_the_same(N, context):
    hidden, head, targets = problem(N, 300)
    with cut_small(64, 7, 300):
        with_gradients = supervised_cross_entropy(hidden, head.requires_grad_(), targets, SOFTCAP)
        with context():
            without = supervised_cross_entropy(hidden, head, targets, SOFTCAP)
    assert with_gradients.requires_grad and not without.requires_grad
    assert without.item() == pytest.approx(with_gradients.item(), rel=1e-6)


def test_nothing_supervised_costs_nothing_and_moves_nothing():
    value, grad_hidden, grad_head = value_and_gradients(supervised_cross_entropy, *problem(0, 300, ignored=5))
    assert value == 0.0
    assert grad_hidden.shape == (1, 5, C) and grad_hidden.abs().max() == 0
    assert grad_head.shape == (300, C) and grad_head.abs().max() == 0


def test_ignored_positions_get_no_gradient_even_if_they_hold_nan():
    hidden, head, targets = problem(20, 300)
    ignored = targets == IGNORE_INDEX
    expected = value_and_gradients(supervised_cross_entropy, hidden, head, targets)
    hidden[ignored] = math.nan
    ours = value_and_gradients(supervised_cross_entropy, hidden, head, targets)
    assert ours[0] == expected[0] and ours[1][ignored].abs().max() == 0
    assert torch.equal(ours[1], expected[1]) and torch.equal(ours[2], expected[2])


def test_a_hidden_state_that_is_not_finite_shows_in_the_loss():
    hidden, head, targets = problem(20, 300, ignored=0)
    hidden[0, 3, 0] = math.nan
    assert math.isnan(supervised_cross_entropy(hidden, head, targets, SOFTCAP).item())


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_either_side_may_be_frozen(frozen):
    hidden, head, targets = problem(20, 300)
    _, grad_hidden, grad_head = value_and_gradients(definition, hidden, head, targets)
    (head if frozen == "hidden" else hidden).requires_grad_()
    supervised_cross_entropy(hidden, head, targets, SOFTCAP).backward()
    ours, theirs = (head.grad, grad_head) if frozen == "hidden" else (hidden.grad, grad_hidden)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert (hidden.grad is None) == (frozen == "hidden") and (head.grad is None) == (frozen == "head")


@pytest.mark.parametrize("chunk_positions", [1000, 64])
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])  # a model's own are bfloat16 under autocast
def test_under_autocast_the_loss_is_close_to_the_plain_one_there(hidden_dtype, chunk_positions):
    hidden, head, targets = problem(200, 3_000)
    hidden = hidden.to(hidden_dtype)
    results = []
    for function in (supervised_cross_entropy, plain_cross_entropy):
        with torch.autocast("cpu", torch.bfloat16), cut_small(2_048, chunk_positions, 3_000):
            results.append(value_and_gradients(function, hidden, head, targets))
    assert_same(*results, loss_tolerance=1e-3, gradient_tolerance=1e-2)
    assert results[0][2].dtype == torch.float32
    exact = value_and_gradients(definition, hidden.float(), head, targets)
    assert results[0][0] == pytest.approx(exact[0], rel=1e-3)
    assert results[0][0] != pytest.approx(exact[0], rel=1e-7)  # or the products were not bfloat16 at all


def test_under_autocast_without_gradients_the_loss_is_the_same():
    hidden, head, targets = problem(200, 3_000)
    with torch.autocast("cpu", torch.bfloat16):
        with_gradients = supervised_cross_entropy(hidden, head.requires_grad_(), targets, SOFTCAP).item()
        with torch.no_grad():
            assert supervised_cross_entropy(hidden, head, targets, SOFTCAP).item() == pytest.approx(with_gradients)


@pytest.mark.parametrize("grad", [True, False])
def test_a_head_that_chunks_take_whole_is_converted_once(monkeypatch, grad):
    monkeypatch.delitem(loss.TILE, "cpu")  # as on CUDA
    monkeypatch.setattr(loss, "CHUNK_LOGITS", 64 * 300)
    hidden, head, targets = problem(210, 300)  # four chunks
    converted = []

    class Conversions(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default:
                converted.append(tuple(args[0].shape))
            return function(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16):
        with Conversions(), torch.set_grad_enabled(grad):
            value = supervised_cross_entropy(hidden, head.clone().requires_grad_(grad), targets, SOFTCAP)
        expected = value_and_gradients(plain_cross_entropy, hidden, head, targets)
        ours = value_and_gradients(supervised_cross_entropy, hidden, head, targets)
    assert converted.count((300, C)) == 1
    assert value.item() == pytest.approx(ours[0], rel=1e-6)
    assert_same(ours, expected, loss_tolerance=1e-3, gradient_tolerance=1e-2)


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operator's result has."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, list | tuple) else [result]
        self.numel = max([self.numel, *(x.numel() for x in made if isinstance(x, torch.Tensor))])
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_larger_than_a_chunk_is_ever_made(dtype, monkeypatch):
    N, V, positions = 512, 1_000, 64
    monkeypatch.setattr(loss, "CHUNK_LOGITS", positions * V)
    hidden, head, targets = problem(N, V, ignored=0)
    largest = {}
    for function in (supervised_cross_entropy, plain_cross_entropy):
        with LargestTensor() as made, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            value_and_gradients(function, hidden, head, targets)
        largest[function.__name__] = made.numel
    assert largest == {"supervised_cross_entropy": positions * V, "plain_cross_entropy": N * V}


def test_without_gradients_no_tensor_larger_than_a_tile_of_a_chunk_is_made(monkeypatch):
    N, V, positions, tile = 512, 1_000, 64, 256
    monkeypatch.setattr(loss, "CHUNK_LOGITS", positions * V)
    monkeypatch.setitem(loss.TILE, "cpu", tile)
    hidden, head, targets = problem(N, V, ignored=0)
    with LargestTensor() as made, torch.no_grad():
        supervised_cross_entropy(hidden, head, targets, SOFTCAP)
    assert made.numel == 2 * tile * positions  # the scratch of sigmoids and of exponentials


def test_the_work_on_a_tile_can_be_given_and_is_asked_once_a_tile_and_chunk():
    widths = []

    def noted(s, scale, exps, with_slopes):
        widths.append(tuple(s.shape))
        return loss.reduce_tile(s, scale, exps, with_slopes)

    hidden, head, targets = problem(10, 300, ignored=0)
    with cut_small(128, 5, 300):
        supervised_cross_entropy(hidden, head, targets, SOFTCAP, noted)
    assert widths == [(128, 5), (128, 5), (44, 5)] * 2


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(loss)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("impossible", [300, 310, 400, -2])
@pytest.mark.parametrize("grad", [True, False])
def test_a_target_that_is_no_id_is_refused_and_named(impossible, grad, monkeypatch):
    monkeypatch.setitem(loss.TILE, "cpu", 128)
    targets = torch.tensor([[1, impossible, -1]])
    with torch.set_grad_enabled(grad), pytest.raises(IndexError, match=rf"0 ... 299; .*{impossible}"):
        supervised_cross_entropy(torch.randn(1, 3, 8, requires_grad=grad), torch.randn(300, 8), targets, 15.0)
