"""The checks of notebook 00 accept right answers and refuse wrong ones in words."""

import doctest
import math

import pytest
import torch

from nanolab.batch import Step, lay_out
from nanolab.engine import Engine
from nanolab.exercises import whole_line
from nanolab.exercises.whole_line import check_first_loss, check_reply, check_whole_line
from nanolab.gpt import GPT, GPTConfig
from nanolab.optim import linear_to_zero, make_optimizers
from nanolab.render import render_conversation
from nanolab.train import train

# The loss before training


def test_the_logarithm_of_the_vocabulary_is_the_first_loss(capsys):
    check_first_loss(math.log)
    assert capsys.readouterr().out.startswith("my_first_loss is right")


@pytest.mark.parametrize(
    "wrong", [math.log2, math.log10, lambda V: 1 / V, lambda V: math.log(1_024), lambda V: -math.log(V)]
)
def test_other_first_losses_are_refused(wrong):
    with pytest.raises(AssertionError, match="A fresh model with .* tokens has a loss of"):
        check_first_loss(wrong)


# A reply, token by token


@torch.inference_mode()
def greedy(model, tokenizer, prompt, max_tokens):
    ids = list(prompt)
    while len(ids) < len(prompt) + max_tokens:
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == tokenizer.special("assistant_end"):
            break
        ids.append(token)
    return ids[len(prompt) :]


def by_the_engine(model, tokenizer, prompt, max_tokens):
    return Engine(model, tokenizer).generate([prompt], max_tokens, temperature=0)[0]


@torch.inference_mode()
def without_end(model, tokenizer, prompt, max_tokens):
    ids = list(prompt)
    for _ in range(max_tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def with_the_prompt(model, tokenizer, prompt, max_tokens):
    return prompt + greedy(model, tokenizer, prompt, max_tokens)


def one_too_many(model, tokenizer, prompt, max_tokens):
    return greedy(model, tokenizer, prompt, max_tokens + 1)


@torch.inference_mode()
def at_the_first_position(model, tokenizer, prompt, max_tokens):
    ids = list(prompt)
    for _ in range(max_tokens):
        ids.append(int(model(torch.tensor([ids]))[0, 0].argmax()))
    return ids[len(prompt) :]


@torch.inference_mode()
def only_the_last_token_as_input(model, tokenizer, prompt, max_tokens):
    said = [prompt[-1]]
    for _ in range(max_tokens):
        said.append(int(model(torch.tensor([said[-1:]]))[0, -1].argmax()))
    return said[1:]


@pytest.mark.parametrize("right", [greedy, by_the_engine])
def test_a_greedy_loop_and_the_engine_are_right(right, capsys):
    check_reply(right)
    assert "says the engine's tokens for 3 questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (without_end, "goes on at <\\|assistant_end\\|>"),
        (with_the_prompt, "returns the prompt too"),
        (one_too_many, "says 13 tokens, max_tokens is 12"),
        (at_the_first_position, "the largest logit at the last position"),
        (only_the_last_token_as_input, "everything said so far"),
        (lambda *_: [], "the engine \\["),
    ],
)
def test_wrong_replies_are_refused(wrong, words):
    with pytest.raises(AssertionError, match=words):
        check_reply(wrong)


def test_the_models_that_end_do_so_after_a_few_tokens(byte_tokenizer):
    model, prompt = whole_line._lively_model(byte_tokenizer.vocab_size, seed=0), [1, 2, 3]
    said = by_the_engine(model, byte_tokenizer, prompt, whole_line.MAX_TOKENS)
    whole_line._end_with(model, said, byte_tokenizer.special("assistant_end"))
    shorter = by_the_engine(model, byte_tokenizer, prompt, whole_line.MAX_TOKENS)
    assert len(said) == whole_line.MAX_TOKENS
    assert 0 < len(shorter) < len(said) and shorter == said[: len(shorter)]


# The whole line


def learn(conversations, tokenizer, num_iterations=60, change_mask=lambda mask: mask):
    torch.manual_seed(0)
    rows = [render_conversation(conversation, tokenizer) for conversation in conversations]
    rows = [(ids, change_mask(mask)) for ids, mask in rows]
    model = GPT(GPTConfig.from_depth(2, tokenizer.vocab_size))
    optimizers = make_optimizers(model, unembedding_lr=0.004, embedding_lr=0.2, matrix_lr=0.02)
    steps = [Step(lay_out(rows, pad_id=tokenizer.special("assistant_end")))] * num_iterations
    for _ in train(model, optimizers, steps, lambda step: (linear_to_zero(step, num_iterations), None)):
        pass
    return Engine(model, tokenizer)


def test_two_conversations_learnt_by_heart_are_accepted(capsys):
    check_whole_line(learn)
    assert "answers both conversations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        (lambda conversations, tokenizer: learn(conversations[:1], tokenizer), 1),
        (lambda conversations, tokenizer: learn(conversations[1:], tokenizer), 0),
        (lambda conversations, tokenizer: learn(conversations, tokenizer, num_iterations=1), 0),
        (lambda c, tokenizer: learn(c, tokenizer, change_mask=lambda mask: [*mask[:-1], 0]), 0),
    ],
    ids=["only the first", "only the second", "too short", "never trained to stop"],
)
def test_what_has_not_learnt_both_is_refused(wrong, number):
    with pytest.raises(AssertionError, match=f"Conversation {number}: the reply to"):
        check_whole_line(wrong)


def test_a_model_without_an_engine_is_refused():
    with pytest.raises(AssertionError, match="must return an Engine, not GPT"):
        check_whole_line(lambda conversations, tokenizer: GPT(GPTConfig.from_depth(1, tokenizer.vocab_size)))


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(whole_line, extraglobs={"math": math}).failed == 0
