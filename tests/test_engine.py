import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanolab.batch import lay_out, pad_batch
from nanolab.engine import Engine, sample
from nanolab.evaluate import batches_by_length, bits_per_byte, evaluate, mean_loss
from nanolab.tools import calculate, format_number
from tests.conftest import random_model

PROMPTS = [[5], [9, 8, 7, 6, 5, 4, 3], [100, 200, 50], [1, 2] * 10]


def greedy_without_cache(model, prompt, max_tokens, stops):
    ids = list(prompt)
    for _ in range(max_tokens):
        with torch.no_grad():
            token = model(torch.tensor([ids]))[0, -1].argmax().item()
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("seed", range(4))
def test_ragged_batches_through_the_cache_say_what_single_prompts_say_without_it(seed, small_tokenizer):
    model = random_model(small_tokenizer.vocab_size, seed=seed)
    engine = Engine(model, small_tokenizer)
    stops = {small_tokenizer.special("assistant_end"), small_tokenizer.special("bos")}
    together = engine.generate(PROMPTS, max_tokens=24, temperature=0)
    assert together == [greedy_without_cache(model, prompt, 24, stops) for prompt in PROMPTS]
    assert len({tuple(reply) for reply in together}) > 1


def test_streaming_gives_the_same_tokens_one_by_one(tiny_model, small_tokenizer):
    engine = Engine(tiny_model, small_tokenizer)
    whole = engine.generate([PROMPTS[1]], max_tokens=16, temperature=0.8, top_k=20, seed=3)[0]
    assert list(engine.stream(PROMPTS[1], max_tokens=16, temperature=0.8, top_k=20, seed=3)) == whole
    assert engine.generate([PROMPTS[1]], max_tokens=16, temperature=0.8, top_k=20, seed=4)[0] != whole


class Scripted:
    """A stand-in for the model's forward pass: says the scripted tokens, whatever it is told."""

    def __init__(self, model, scripts):
        self.model, self.scripts, self.position = model, scripts, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def logits(self, hidden):
        rows = [script[min(self.position, len(script) - 1)] for script in self.scripts]
        self.position += 1
        return torch.nn.functional.one_hot(torch.tensor(rows), self.model.config.vocab_size).float()


def test_a_calculator_call_is_answered_by_force_and_rows_end_on_their_own(tiny_model, small_tokenizer):
    special, encode = small_tokenizer.special, small_tokenizer.encode
    call = [special("python_start"), *encode("12*4"), special("python_end")]
    answer = [special("output_start"), *encode("48"), special("output_end")]
    first = [*call, *[7] * len(answer), 65, special("assistant_end")]  # the 7s are overruled by the output
    second = [66, 67, special("assistant_end")]
    model = Scripted(tiny_model, [first, second])
    replies = Engine(model, small_tokenizer).generate([[1, 2], [3]], max_tokens=50, temperature=0)
    assert replies == [[*call, *answer, 65], [66, 67]]


def test_an_expression_the_calculator_refuses_gives_no_output_and_generation_goes_on(tiny_model, small_tokenizer):
    special = small_tokenizer.special
    script = [
        special("python_start"),
        *small_tokenizer.encode("open(1)"),
        special("python_end"),
        65,
        special("bos"),
    ]
    replies = Engine(Scripted(tiny_model, [script]), small_tokenizer).generate([[1]], max_tokens=50, temperature=0)
    assert replies == [script[:-1]]


def test_empty_prompts_and_negative_temperatures_are_refused(tiny_model, small_tokenizer):
    engine = Engine(tiny_model, small_tokenizer)
    with pytest.raises(ValueError, match="at least one id"):
        engine.generate([[1], []])
    with pytest.raises(ValueError, match="temperature must be 0"):
        engine.generate([[1]], temperature=-1)


def test_top_k_never_draws_a_worse_token():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(500, 4)
    drawn = sample(logits, 5.0, top_k=2, generator=torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 3}


CALCULATIONS = {
    "12*(3+4)": "84",
    "20/2": "10",
    "0.1+0.2": "0.3",
    "7/2": "3.5",
    "1,200*2": "2400",
    "1,050*2": "2100",
    "2*(1,200+3)": "2406",
    "1,234,567+1": "1234568",
    "1,2": None,
    "'1,000'.count(',')": "1",
    " -3 + 5": "2",
    "17%5": "2",
    "'strawberry'.count('r')": "3",
    '"banana".count("an")': "2",
    "1/0": None,
    "9**9**9": None,
    "1e300*1e300": None,
    "open('x')": None,
    "'a'.upper()": None,
    "'a'*9": None,
    "().__class__": None,
    "x+1": None,
    "1+": None,
    "": None,
    "True": None,
    "1" * 300: None,
}


@pytest.mark.parametrize("expression", CALCULATIONS)
def test_calculator(expression):
    assert calculate(expression) == CALCULATIONS[expression]


@given(st.text(max_size=60) | st.text(alphabet="0123456789+-*/().,' countx", max_size=60))
def test_no_expression_raises(expression):
    assert calculate(expression) is None or isinstance(calculate(expression), str)


def test_numbers_are_written_as_the_data_writes_them():
    assert [format_number(x) for x in (10.0, 10, 0.5, 1 / 3, -2.0)] == [
        "10",
        "10",
        "0.5",
        "0.3333333333",
        "-2",
    ]


class Choices:
    """A small multiple-choice task."""

    name, eval_type = "choices", "categorical"

    def __len__(self):
        return 7

    def __getitem__(self, i):
        letters = ["A", "B", "C"] if i % 2 else ["1", "2", "3", "4"]
        question = {"role": "user", "content": f"{'which ' * (i + 1)}?"}
        return {"messages": [question, {"role": "assistant", "content": letters[0]}], "letters": letters}

    def evaluate(self, conversation, reply):
        return reply == conversation["messages"][-1]["content"]


def test_multiple_choice_does_not_depend_on_the_batch_size(tiny_model, small_tokenizer):
    tables = [evaluate(tiny_model, small_tokenizer, Choices(), batch_size=size).table for size in (1, 3, 100)]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    assert all(reply in c["letters"] for reply, c in zip(tables[0]["reply"], Choices(), strict=False))


def test_an_evaluation_counts_its_first_problems_and_knows_the_chance(tiny_model, small_tokenizer):
    graded = evaluate(tiny_model, small_tokenizer, Choices(), max_problems=2)
    assert graded.num_problems == 2 and graded.chance == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert graded.accuracy == graded.table["correct"].mean()


def test_a_task_for_training_only_cannot_be_graded(tiny_model, small_tokenizer):
    task = Choices()
    task.eval_type = None
    with pytest.raises(ValueError, match="for training only"):
        evaluate(tiny_model, small_tokenizer, task)


def test_mean_loss_weighs_every_supervised_token_the_same(tiny_model):
    rows = [([k, 2, 3, 4, 5][: k + 2], [0, 1, 1, 1, 1][: k + 2]) for k in range(4)]
    losses = [mean_loss(tiny_model, lay_out(rows, pad_id=0, device_batch_size=size)) for size in (1, 4)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_bits_per_byte_leaves_special_tokens_out(tiny_model, byte_tokenizer):
    bos = byte_tokenizer.special("bos")
    batch = pad_batch([([65, bos, 66, 67], [1, 1, 1, 1])], pad_id=0)
    num_bytes = torch.tensor(byte_tokenizer.num_bytes() + [0] * 100)
    with torch.no_grad():
        nats = -tiny_model(batch.inputs).log_softmax(-1)[0, [1, 2], [66, 67]].sum().item()  # bos is no text
    assert bits_per_byte(tiny_model, [batch], num_bytes) == pytest.approx(nats / math.log(2) / 2, rel=1e-5)
    assert bits_per_byte(tiny_model, [], num_bytes) is None


def test_batches_by_length_hold_every_prompt_once():
    assert batches_by_length([[1, 2, 3], [1], [1, 2]], batch_size=2) == [[1, 2], [0]]
