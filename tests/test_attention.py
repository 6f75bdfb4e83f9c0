"""Documents of a flat row do not see each other: attention, gradients and a model's logits are those of each alone."""

import doctest
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolab import attention
from nanolab.attention import document_attention, document_lengths
from nanolab.batch import pack_batch, positions_in_documents
from nanolab.gpt import GPT, GPTConfig
from tests.conftest import random_model

D = 16
LENGTHS = [7, 1, 0, 12, 3, 0]  # a document of one token, and empty ones in the middle and at the end


def borders_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def queries_keys_values(T: int, n_head: int = 4, n_kv_head: int = 4, seed: int = 0) -> list[torch.Tensor]:
    """q (1, n_head, T, D), k and v (1, n_kv_head, T, D), laid out in memory as the model's are."""
    generator = torch.Generator().manual_seed(seed)
    heads = (n_head, n_kv_head, n_kv_head)
    return [torch.randn(1, T, H, D, generator=generator).transpose(1, 2).requires_grad_() for H in heads]


def by_definition(q, k, v):
    """Causal attention of one document, (1, H, L, D), with every query head's own copy of its key head."""
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    scores = q @ k.mT / q.size(-1) ** 0.5  # (1, H, L, L)
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


def each_alone(q, k, v, borders):
    spans = itertools.pairwise(borders.tolist())
    return torch.cat([by_definition(*(x[:, :, a:b] for x in (q, k, v))) for a, b in spans if b > a], dim=2)


def while_compiling(q, k, v, borders):
    """document_attention as torch.compile sees it: by way of the operator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        return document_attention(q, k, v, borders)


def output_and_gradients(function, tensors, borders):
    """The output, and the gradients of q, k and v under an uneven weighting of it."""
    y = function(*tensors, borders)
    weights = torch.arange(y.numel()).view(y.shape).sin()
    return y.detach(), *torch.autograd.grad((y * weights).sum(), tensors)


@pytest.mark.parametrize("lengths", [[1], [5], [1, 1, 1], LENGTHS, [0, 0, 9], [40, 2]])
@pytest.mark.parametrize(("n_head", "n_kv_head"), [(1, 1), (4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("function", [document_attention, while_compiling, attention._masked])
def test_attention_and_its_gradients_are_those_of_each_document_alone(function, n_head, n_kv_head, lengths):
    tensors = queries_keys_values(sum(lengths), n_head, n_kv_head)
    ours = output_and_gradients(function, tensors, borders_of(lengths))
    alone = output_and_gradients(each_alone, tensors, borders_of(lengths))
    for a, b in zip(ours, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_attention_across_borders_would_be_something_else():
    q, k, v = queries_keys_values(sum(LENGTHS))
    across = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    isolated = document_attention(q, k, v, borders_of(LENGTHS))
    same = torch.isclose(across, isolated, atol=1e-5).all(-1).all(1)[0]  # (T,)
    assert same.tolist() == [True] * 7 + [False] * 16  # only the first document has nothing before it


@pytest.mark.parametrize("function", [document_attention, while_compiling, attention._masked])
@pytest.mark.parametrize("changed", [0, 1, 3, 4])
def test_changing_one_document_leaves_the_others_as_they_are_to_the_bit(changed, function):
    borders, tensors = borders_of(LENGTHS), queries_keys_values(sum(LENGTHS))
    start, end = borders[changed].item(), borders[changed + 1].item()
    others = [slot for slot in range(sum(LENGTHS)) if not start <= slot < end]
    before = output_and_gradients(function, tensors, borders)
    with torch.no_grad():
        for x in tensors:
            x[:, :, start:end] = 100 * x[:, :, start:end] + 1
    after = output_and_gradients(function, tensors, borders)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:, :, others], b[:, :, others])
    assert not torch.equal(before[0], after[0])


def test_the_operator_tells_the_compiler_the_truth_about_itself():
    operator = torch.ops.nanolab.document_attention.default
    arguments = (*queries_keys_values(sum(LENGTHS)), borders_of(LENGTHS))
    passed = torch.library.opcheck(operator, arguments)
    assert set(passed.values()) == {"SUCCESS"} and len(passed) == 4
    backward = torch.ops.nanolab.document_attention_backward.default
    detached = [x.detach() for x in arguments]
    passed = torch.library.opcheck(backward, (torch.ones_like(detached[0]), *detached))
    assert set(passed.values()) == {"SUCCESS"}


def test_the_operator_works_in_bfloat16():
    tensors = queries_keys_values(sum(LENGTHS))
    halves = [x.detach().bfloat16().requires_grad_() for x in tensors]
    exact = output_and_gradients(each_alone, tensors, borders_of(LENGTHS))
    rounded = output_and_gradients(while_compiling, halves, borders_of(LENGTHS))
    assert all(x.dtype == torch.bfloat16 for x in rounded)
    for a, b in zip(rounded, exact, strict=True):
        assert (a - b).norm() <= 0.02 * b.norm()


def test_more_than_one_row_is_refused():
    x = torch.zeros(2, 1, 5, D)
    with pytest.raises(ValueError, match=r"one flat row \(1, T\), got 2 rows"):
        document_attention(x, x, x, borders_of([5]))
    with pytest.raises(ValueError, match="got 2 rows"):
        random_model(300)(torch.zeros(2, 5, dtype=torch.long), borders=borders_of([5]))


def test_borders_that_do_not_end_with_the_row_are_refused():
    q, k, v = queries_keys_values(9)
    with pytest.raises(RuntimeError, match="split_with_sizes expects split_sizes to sum exactly to 9"):
        document_attention(q, k, v, borders_of([5]))


def test_lengths_leave_out_empty_documents():
    assert document_lengths(borders_of(LENGTHS)) == [7, 1, 12, 3]


# --- a whole model ---------------------------------------------------------------------------------------------------

MODEL = random_model(300)


def random_ids(lengths: list[int], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(300, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def assert_packed_logits_are_those_of_each_alone(model: GPT, documents: list[list[int]], padding: int = 0):
    """Also with padding at the end of the row, and empty documents at the end of the table."""
    rows = [([*ids, 0], [0] * (len(ids) + 1)) for ids in documents]  # one id more: the last is a target only
    T = sum(map(len, documents))
    batch = pack_batch(rows, pad_id=7, size=T + padding, table_size=len(rows) + 4)
    packed = model(batch.inputs, borders=batch.borders)[0, :T]  # (T, V)
    alone = torch.cat([model(torch.tensor([ids]))[0] for ids in documents])
    assert alone.std() > 0.1  # not all the same, or the comparison would say nothing
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 20), st.integers(0, 99))
def test_a_packed_rows_logits_are_those_of_its_documents_alone(lengths, padding, seed):
    assert_packed_logits_are_those_of_each_alone(MODEL, random_ids(lengths, seed), padding)


def test_a_packed_rows_logits_are_those_of_its_documents_alone_with_grouped_key_heads():
    torch.manual_seed(0)
    model = GPT(GPTConfig(sequence_len=64, vocab_size=300, n_layer=2, n_head=4, n_kv_head=2, n_embd=64))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.1)
    assert_packed_logits_are_those_of_each_alone(model, random_ids([9, 1, 30, 2], seed=0), padding=5)


def test_without_isolation_the_second_documents_logits_would_be_others_whatever_its_positions():
    documents = random_ids([9, 12], seed=0)
    inputs, borders = torch.tensor([documents[0] + documents[1]]), borders_of([9, 12])
    with torch.no_grad():
        alone = MODEL(torch.tensor([documents[1]]))[0]
        one_row = MODEL(inputs)[0, 9:]
        restarted = MODEL.logits(MODEL.hidden(inputs, positions_in_documents(borders, 21)))[0, 9:]
    assert (one_row - alone).abs().max() > 1e-2 and (restarted - alone).abs().max() > 1e-2


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(attention)
    assert result.attempted and not result.failed
