"""The checks of notebook 03 accept right answers and refuse planted wrong ones, with a sentence that helps."""

import pytest

from nanolab.exercises.render_and_mask import (
    check_mask,
    check_num_supervised,
    check_prompt,
    check_said_specials,
    mask_of,
    num_supervised,
    prompt_of,
    said_specials,
)
from nanolab.render import render_conversation
from nanolab.tokenizer import SPECIAL_TOKENS

SAID = {"python_start", "python_end", "assistant_end"}

# Special tokens


def test_the_three_special_tokens_that_are_said_are_accepted(capsys):
    check_said_specials(said_specials())
    check_said_specials(sorted(SAID))
    assert capsys.readouterr().out == "Right for all 9 special tokens.\n" * 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (SAID | {"assistant_start"}, "1 of the 9"),
        (SAID - {"assistant_end"}, "1 of the 9"),
        (SAID | {"output_start", "output_end"}, "2 of the 9"),
        ({"assistant_start", "assistant_end"}, "3 of the 9"),
        (set(), "3 of the 9"),
        (set(SPECIAL_TOKENS), "6 of the 9"),
        (SAID | {"system_start"}, r"no special token <\|system_start\|>"),
        ("assistant_end", "set or list"),
    ],
)
def test_other_sets_of_special_tokens_are_refused(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_said_specials(wrong)


def test_a_refusal_does_not_name_the_tokens_that_are_wrong():
    with pytest.raises(AssertionError) as refusal:
        check_said_specials(SAID - {"python_end"})
    assert not any(name in str(refusal.value) for name in SPECIAL_TOKENS)


# Counting


def counted(parts, tokenizer, frames=2, end=1, output=0):
    lengths = [(part["type"], len(tokenizer.encode(part["text"]))) for part in parts]
    calls = sum(kind == "python" for kind, _ in lengths)
    said = sum(length for kind, length in lengths if kind != "python_output" or output)
    return said + frames * calls + end


def test_counting_by_hand_is_accepted(byte_tokenizer, small_tokenizer, capsys):
    for tokenizer in (byte_tokenizer, small_tokenizer):
        check_num_supervised(counted, tokenizer)
        check_num_supervised(num_supervised, tokenizer)
    assert capsys.readouterr().out == "my_num_supervised is right for 4 replies.\n" * 4


@pytest.mark.parametrize("mistake", [{"end": 0}, {"end": 2}, {"frames": 0}, {"frames": 1}, {"output": 1}])
def test_miscounts_are_refused(mistake, byte_tokenizer):
    with pytest.raises(AssertionError, match="supervised tokens, my_num_supervised says"):
        check_num_supervised(lambda parts, tokenizer: counted(parts, tokenizer, **mistake), byte_tokenizer)


# The mask


def walked(ids, tokenizer, mask_tool=True, resume=True, cue=0, end=1):
    """A walk along the ids that can make the usual mistakes."""
    speaking, tool, mask = False, False, []
    for token in ids:
        tool = tool or (mask_tool and token == tokenizer.special("output_start"))
        bit = int(speaking and not tool)
        bit = cue if token == tokenizer.special("assistant_start") else bit
        mask.append(end if token == tokenizer.special("assistant_end") else bit)
        speaking = (speaking or token == tokenizer.special("assistant_start")) and token != tokenizer.special(
            "assistant_end"
        )
        tool = tool and speaking and not (resume and token == tokenizer.special("output_end"))
    return mask


def from_the_first_reply_on(ids, tokenizer):
    first = list(ids).index(tokenizer.special("assistant_start")) if tokenizer.special("assistant_start") in ids else 0
    return [int(first > 0 and t > first) for t in range(len(ids))]


def by_text(ids, tokenizer):
    """Looks for the names in the text, where a user may have written them."""
    mask, text, speaking, tool = [], "", False, False
    for token in ids:
        text += tokenizer.decode([token])
        tool = tool or text.endswith("<|output_start|>")
        mask.append(int(speaking and not tool))
        speaking = (speaking or text.endswith("<|assistant_start|>")) and not text.endswith("<|assistant_end|>")
        tool = tool and not text.endswith("<|output_end|>")
    return mask


def test_masks_from_ids_are_accepted(byte_tokenizer, small_tokenizer, capsys):
    for tokenizer in (byte_tokenizer, small_tokenizer):
        check_mask(walked, tokenizer)
        check_mask(mask_of, tokenizer)
    assert capsys.readouterr().out == "my_mask is right for 10 conversations.\n" * 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ids, tokenizer: walked(ids, tokenizer, mask_tool=False),
        lambda ids, tokenizer: walked(ids, tokenizer, resume=False),
        lambda ids, tokenizer: walked(ids, tokenizer, cue=1),
        lambda ids, tokenizer: walked(ids, tokenizer, end=0),
        from_the_first_reply_on,
        by_text,
        lambda ids, tokenizer: [1] * len(ids),
    ],
)
def test_masks_with_a_usual_mistake_are_refused(wrong, byte_tokenizer):
    with pytest.raises(AssertionError, match=r"Position \d+, .* has mask [01], my_mask says [01]; it stands behind"):
        check_mask(wrong, byte_tokenizer)


def test_a_mask_of_another_length_is_refused(byte_tokenizer):
    with pytest.raises(AssertionError, match="9 ids need 9 bits, my_mask gives 8"):
        check_mask(lambda ids, tokenizer: mask_of(ids, tokenizer)[1:], byte_tokenizer, rows=[])


def test_rows_that_are_handed_in_are_checked_too(byte_tokenizer):
    ids, mask = render_conversation({"messages": [{"role": "user", "content": "Hello"}]}, byte_tokenizer)
    check_mask(mask_of, byte_tokenizer, rows=[(ids, mask)])
    with pytest.raises(AssertionError, match=r"Position 0, '<\|bos\|>', has mask 1"):
        check_mask(mask_of, byte_tokenizer, rows=[(ids, [1, *mask[1:]])])


# The prompt


def up_to(ids, place):
    return list(ids)[: place + 1]


def from_the_right(ids, token):
    return len(ids) - 1 - list(ids)[::-1].index(token)


def test_prompts_up_to_the_last_cue_are_accepted(byte_tokenizer, small_tokenizer, capsys):
    for tokenizer in (byte_tokenizer, small_tokenizer):
        check_prompt(prompt_of, tokenizer)
        check_prompt(lambda ids, t: up_to(ids, from_the_right(ids, t.special("assistant_start"))), tokenizer)
    assert capsys.readouterr().out == "my_prompt is right for 8 conversations.\n" * 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ids, t: up_to(ids, list(ids).index(t.special("assistant_start"))),  # the first reply, not the last
        lambda ids, t: up_to(ids, from_the_right(ids, t.special("user_end"))),  # without the cue
        lambda ids, t: up_to(ids, max(k for k, bit in enumerate(mask_of(ids, t)) if not bit)),  # tool output is 0 too
        lambda ids, t: [token for token, bit in zip(ids, mask_of(ids, t), strict=True) if not bit],  # without replies
        lambda ids, t: list(ids),
    ],
)
def test_other_prompts_are_refused(wrong, byte_tokenizer):
    with pytest.raises(AssertionError, match="Only the last reply is left out"):
        check_prompt(wrong, byte_tokenizer)
