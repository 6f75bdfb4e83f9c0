"""Notebook 14: what temperature and top_k leave of the logits, when a reply ends, who says a token, what a call gives.

The functions on top are what the exercises ask for; `check_...` compares a learner's own with cases worked out by hand
and with the engine's calculator.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from nanolab.tools import calculate

CLOSE = 1e-5
LOGITS = [2.0, 0.0, 1.0, -1.0]
# temperature, top_k, probabilities of LOGITS
DRAWS = (
    (1.0, None, [0.643914, 0.087144, 0.236883, 0.032059]),
    (0.5, None, [0.864955, 0.015842, 0.117059, 0.002144]),
    (2.0, None, [0.455054, 0.167405, 0.276004, 0.101536]),
    (1.0, 2, [0.731059, 0.0, 0.268941, 0.0]),
    (2.0, 3, [0.506480, 0.186324, 0.307196, 0.0]),
    (0.5, 1, [1.0, 0.0, 0.0, 0.0]),
    (1.0, 9, [0.643914, 0.087144, 0.236883, 0.032059]),
)
END, BOS = 1, 2  # play <|assistant_end|> and <|bos|>
PROMPT = [BOS, 7, 8]
# what the model would say, max_tokens, the reply
SPEECHES = (
    ([5, 6, END, 9], 10, [5, 6]),
    ([5, BOS, 9], 10, [5]),
    ([END, 5], 10, []),
    ([5, 6, 7, 8, 9], 3, [5, 6, 7]),
    ([5, 6, 7, END], 3, [5, 6, 7]),
    ([5, 5, 5, 5, END], 10, [5, 5, 5, 5]),
)
START, CALLED, OUTPUT, OUTPUT_END = "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>"
# a reply as tokens, and the places of those that the engine forced
REPLIES = (
    (["It", " is", " 4", "."], []),
    (["7*7=", START, "7*7", CALLED, OUTPUT, "49", OUTPUT_END, "49", "."], [4, 5, 6]),
    ([START, "12", "*", "12", CALLED, OUTPUT, "1", "44", OUTPUT_END, START, "1+1", CALLED, OUTPUT, "2", OUTPUT_END],
     [5, 6, 7, 8, 12, 13, 14]),
    ([START, "1/0", CALLED, " I", " do", " not", " know"], []),
    ([START, "1/0", CALLED, OUTPUT, "7", OUTPUT_END, "7"], []),
    (["So", OUTPUT, "3", OUTPUT_END, "3"], []),
)  # fmt: skip
CALLS = ("12/8", "12/4", "2*3.50", "7//2", "10/3", "2**10", "max(3, 4)", "'banana'.count('an')")


def probabilities(logits: Sequence[float], temperature: float, top_k: int | None = None) -> list[float]:
    """With which probability each token is drawn, at a temperature above 0, if only the `top_k` best can be drawn.

    >>> [round(p, 3) for p in probabilities([1.0, 3.0, 2.0], temperature=0.5, top_k=2)]
    [0.0, 0.881, 0.119]
    """
    values = torch.tensor(logits, dtype=torch.float64)
    if top_k is not None:
        worst_kept = values.topk(min(top_k, len(values))).values[-1]
        values = values.masked_fill(values < worst_kept, -torch.inf)
    return (values / temperature).softmax(-1).tolist()


def say(
    prompt: Sequence[int], next_token: Callable[[list[int]], int], stops: Sequence[int], max_tokens: int
) -> list[int]:
    """The new ids behind a prompt: until the first of `stops`, which is left out, or `max_tokens` of them.

    >>> say([2, 7], lambda ids: 5 if len(ids) < 4 else 1, stops=[1], max_tokens=10)
    [5, 5]
    """
    ids = list(prompt)
    while len(ids) < len(prompt) + max_tokens:
        token = next_token(ids)
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


def forced(tokens: Sequence[str]) -> list[bool]:
    """For each token of a reply whether the engine put it there: the output of a call that the calculator answers.

    >>> forced(["<|python_start|>", "1+1", "<|python_end|>", "<|output_start|>", "2", "<|output_end|>"])
    [False, False, False, True, True, True]
    """
    found, expression, speaks = [], None, False
    for token in tokens:
        found.append(speaks)
        if speaks:
            speaks = token != OUTPUT_END
        elif token == START:
            expression = ""
        elif token == CALLED and expression is not None:
            speaks, expression = calculate(expression) is not None, None
        elif expression is not None:
            expression += token
    return found


def results(calls: Sequence[str] = CALLS) -> dict[str, str | None]:
    """What the calculator answers to each call, None where it refuses.

    >>> results(["6/4", "1/0"])
    {'6/4': '1.5', '1/0': None}
    """
    return {call: calculate(call) for call in calls}


def check_probabilities(mine: Callable[[Sequence[float], float, int | None], Sequence[float]]) -> None:
    """Refuse a temperature on the wrong side of the softmax or of the division, and shares that do not sum to 1.

    >>> check_probabilities(probabilities)
    Right: first cut, then divided, then the softmax.
    """
    for temperature, top_k, expected in DRAWS:
        got = [float(p) for p in mine(list(LOGITS), temperature, top_k)]
        about = f"Logits {LOGITS}, temperature {temperature}, top_k {top_k}: "
        assert len(got) == len(LOGITS), f"{about}there are {len(LOGITS)} tokens, yours are {len(got)} probabilities."
        assert abs(sum(got) - 1) < CLOSE, f"{about}probabilities sum to 1, yours to {sum(got):.4f}."
        drawn, least = sum(p > 0 for p in got), sum(p > 0 for p in expected)
        assert drawn == least, f"{about}{least} tokens can be drawn, with yours {drawn}."
        assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) < CLOSE, (
            f"{about}yours gives the best token {max(got):.4f}. The temperature divides the logits: below 1 it makes "
            "likely tokens likelier."
        )
    print("Right: first cut, then divided, then the softmax.")


def check_say(mine: Callable[[Sequence[int], Callable[[list[int]], int], Sequence[int], int], list[int]]) -> None:
    """Refuse replies with their stop token or the prompt in them, and tokens that are asked for in vain.

    >>> check_say(say)
    Right for 6 replies.
    """
    for speech, max_tokens, expected in SPEECHES:
        asked: list[list[int]] = []
        got = list(mine(list(PROMPT), _speaker(speech, asked), (END, BOS), max_tokens))
        about = f"The model would say {speech}, max_tokens is {max_tokens}: "
        assert got == expected, (
            f"{about}your reply is {got}. It has the new tokens only, at most max_tokens, and ends before the first of "
            f"{END} and {BOS}."
        )
        needed = min(len(expected) + 1, max_tokens)
        assert len(asked) == needed, f"{about}{needed} calls of next_token are enough, you made {len(asked)}."
        for n, ids in enumerate(asked):
            assert ids == PROMPT + expected[:n], f"{about}token {n} was asked for behind {ids}; it must see all so far."
    print(f"Right for {len(SPEECHES)} replies.")


def check_forced(mine: Callable[[Sequence[str]], Sequence[bool]]) -> None:
    """Refuse the call's own tokens, outputs that the model made up, and outputs of calls that are refused.

    >>> check_forced(forced)
    Right for 6 replies.
    """
    for tokens, places in REPLIES:
        got = [k for k, one in enumerate(mine(list(tokens))) if one]
        too_many, too_few = sorted(set(got) - set(places)), sorted(set(places) - set(got))
        about = f"In the reply {''.join(tokens)!r} "
        assert not too_many, (
            f"{about}the model says {tokens[too_many[0]]!r} (token {too_many[0]}) itself. The engine speaks only "
            "behind a call that its calculator answers."
        )
        assert not too_few, f"{about}the engine forces {tokens[too_few[0]]!r} (token {too_few[0]}), too."
    print(f"Right for {len(REPLIES)} replies.")


def check_results(mine: Mapping[str, str | None]) -> None:
    """Refuse predictions that the calculator does not share; it is not told what it says.

    >>> check_results(results())
    Right: all 8, as the data would write them.
    """
    for call in CALLS:
        assert call in mine, f"There is no prediction for {call!r}."
        got, answer = mine[call], calculate(call)
        assert got is None or isinstance(got, str), f"{call!r}: the engine forces text, {got!r} is none. Write '...'."
        assert (got is None) == (answer is None), (
            f"{call!r}: {'refused' if got is None else 'answered'} is wrong. The calculator does + - * / // % with "
            "brackets, and counts one quoted text in another; nothing else."
        )
        assert got == answer, (
            f"{call!r}: {got!r} is not what is forced. Results are exact, short and without an end .0."
        )
    print(f"Right: all {len(CALLS)}, as the data would write them.")


def _speaker(speech: Sequence[int], asked: list[list[int]]) -> Callable[[list[int]], int]:
    """A model that says `speech`, and writes down behind which ids it was asked."""
    tokens: Iterator[int] = iter(speech)

    def next_token(ids: list[int]) -> int:
        asked.append(list(ids))
        return next(tokens, END)

    return next_token
