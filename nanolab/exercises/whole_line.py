"""Checks of notebook 00: the loss before training, a reply token by token, and the whole line by yourself."""

from collections.abc import Callable, Sequence

import torch

from nanolab.engine import Engine
from nanolab.gpt import GPT, GPTConfig
from nanolab.render import render_conversation, render_for_completion
from nanolab.tokenizer import NUM_BYTES, Tokenizer

VOCAB_SIZES = (300, 1_024, 4_096)
QUESTIONS = ("Hi", "What is 2+2?", "A longer question than the other two.")
MAX_TOKENS = 12
LIVELY = 0.3  # standard deviation of weights that make a random model say many different tokens

LESSONS = (
    {
        "messages": [
            {"role": "user", "content": "What do ducks say?"},
            {"role": "assistant", "content": "Quack, quack."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "What is 7*6?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "That is "},
                    {"type": "python", "text": "7*6"},
                    {"type": "python_output", "text": "42"},
                    {"type": "text", "text": "42."},
                ],
            },
        ]
    },
)


def check_first_loss(my_first_loss: Callable[[int], float]) -> None:
    """Compare `my_first_loss(vocab_size)`, in nats a token, with the loss of fresh models of three vocabularies.

    Raises AssertionError, saying what was expected, if one differs by more than a thousandth.

    >>> check_first_loss(math.log)
    my_first_loss is right for vocabularies of 300, 1,024 and 4,096 tokens.
    """
    for vocab_size in VOCAB_SIZES:
        model = GPT(GPTConfig.from_depth(1, vocab_size))
        with torch.no_grad():
            expected = model(torch.tensor([[1, 2, 3]]), torch.tensor([[2, -1, 4]])).item()
        got = float(my_first_loss(vocab_size))
        assert abs(got - expected) < 1e-3, (
            f"A fresh model with {vocab_size:,} tokens has a loss of {expected:.4f} nats, my_first_loss says "
            f"{got:.4f}. Its logits are all equal: what probability has each token then, and what is minus its "
            "natural logarithm?"
        )
    print("my_first_loss is right for vocabularies of 300, 1,024 and 4,096 tokens.")


def check_reply(my_reply: Callable[[GPT, Tokenizer, list[int], int], Sequence[int]]) -> None:
    """Compare `my_reply(model, tokenizer, prompt, max_tokens)`, the new ids, with the engine's greedy ones.

    The models are random ones that never end a reply and ones that do. Raises AssertionError, saying what is wrong with
    the ids, if any differs.

    >>> check_reply(lambda model, tokenizer, prompt, max_tokens: Engine(model, tokenizer).generate(
    ...     [prompt], max_tokens, temperature=0)[0])
    my_reply says the engine's tokens for 3 questions, and ends where it ends.
    """
    tokenizer = Tokenizer([bytes([b]) for b in range(NUM_BYTES)])
    end = tokenizer.special("assistant_end")
    for seed, question in enumerate(QUESTIONS):
        prompt = render_for_completion({"messages": [{"role": "user", "content": question}]}, tokenizer)
        model = _lively_model(tokenizer.vocab_size, seed)
        said = _compare(my_reply, model, tokenizer, prompt)
        _end_with(model, said, end)
        _compare(my_reply, model, tokenizer, prompt)
    print(f"my_reply says the engine's tokens for {len(QUESTIONS)} questions, and ends where it ends.")


def check_whole_line(my_whole_line: Callable[[list[dict], Tokenizer], Engine]) -> None:
    """Let `my_whole_line(conversations, tokenizer)` learn two conversations by heart; its engine must answer both.

    Takes as long as that training (some seconds). Raises AssertionError with what was said and what should have been.

    >>> check_whole_line(my_whole_line)                                        # doctest: +SKIP
    my_whole_line's engine answers both conversations, calculator included.
    """
    tokenizer = Tokenizer([bytes([b]) for b in range(NUM_BYTES)])
    engine = my_whole_line(list(LESSONS), tokenizer)
    assert isinstance(engine, Engine), f"my_whole_line must return an Engine, not {type(engine).__name__}."
    for number, conversation in enumerate(LESSONS):
        ids, _ = render_conversation(conversation, tokenizer)
        wanted = tokenizer.decode(ids[ids.index(tokenizer.special("assistant_start")) + 1 : -1])
        said = engine.reply(conversation, max_tokens=len(ids))
        assert said == wanted, (
            f"Conversation {number}: the reply to {conversation['messages'][0]['content']!r} is {said!r}, it should be "
            f"{wanted!r}. Are both conversations in every step, is the mask the one of render_conversation, and is the "
            "loss near 0 at the end?"
        )
    print("my_whole_line's engine answers both conversations, calculator included.")


def _lively_model(vocab_size: int, seed: int) -> GPT:
    """A random model whose greedy reply does not repeat a single token."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig.from_depth(2, vocab_size))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=LIVELY)
    return model


def _end_with(model: GPT, said: list[int], end: int):
    """Exchange two rows of the head, so that the model ends its reply where it has said its last new token."""
    new = [place for place, id in enumerate(said) if id not in said[:place]]
    last = said[new[-1]]
    with torch.no_grad():
        model.lm_head.weight[[last, end]] = model.lm_head.weight[[end, last]]


def _compare(my_reply: Callable, model: GPT, tokenizer: Tokenizer, prompt: list[int]) -> list[int]:
    """The engine's ids, if `my_reply` gives them too."""
    wanted = Engine(model, tokenizer).generate([prompt], MAX_TOKENS, temperature=0)[0]
    got = [int(id) for id in my_reply(model, tokenizer, list(prompt), MAX_TOKENS)]
    end = tokenizer.special("assistant_end")
    assert got[: len(prompt)] != prompt, "my_reply returns the prompt too: only the new ids are wanted."
    assert end not in got, "my_reply goes on at <|assistant_end|>: the reply ends there, without that token."
    assert len(got) <= MAX_TOKENS, f"my_reply says {len(got)} tokens, max_tokens is {MAX_TOKENS}."
    assert got == wanted, (
        f"my_reply says {got}, the engine {wanted}. Greedy is: the token with the largest logit at the last position, "
        "with everything said so far as the input."
    )
    return wanted
