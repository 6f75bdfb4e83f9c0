"""The checks of notebook 08 accept right answers and refuse wrong ones in words."""

import pytest

from nanolab.exercises.will_it_fit import check_logits_bytes, check_too_long, check_weight_bytes


def by_hand(config):
    C, V = config.n_embd, config.vocab_size
    return 4 * (2 * V * C + config.n_layer * 12 * C * C)


def without_the_head(config):
    return by_hand(config) - 4 * config.vocab_size * config.n_embd


def in_bfloat16(config):
    return by_hand(config) // 2


def test_the_bytes_of_weights_are_accepted(capsys):
    check_weight_bytes(by_hand)
    assert capsys.readouterr().out == "my_weight_bytes is right for 4 models.\n"


@pytest.mark.parametrize("wrong", [without_the_head, in_bfloat16, lambda config: 0])
def test_other_bytes_of_weights_are_refused(wrong):
    with pytest.raises(AssertionError, match="A d1 with 512 tokens has .* bytes of weights, my_weight_bytes says"):
        check_weight_bytes(wrong)


def test_the_bytes_of_logits_are_accepted(capsys):
    check_logits_bytes(lambda B, T, V: 2 * 4 * B * T * V)
    assert capsys.readouterr().out == "my_logits_bytes is right for 3 shapes.\n"


@pytest.mark.parametrize("wrong", [lambda B, T, V: 4 * B * T * V, lambda B, T, V: 8 * T * V, lambda B, T, V: 8 * B * T])
def test_other_bytes_of_logits_are_refused(wrong):
    with pytest.raises(AssertionError, match="logits kept twice are"):
        check_logits_bytes(wrong)


def whole_turns(ids, mask, limit, end):
    ends = [t + 1 for t in range(min(limit, len(ids))) if mask[t] and ids[t] == end]
    return (ids[: ends[-1]], mask[: ends[-1]]) if ends else None


def anybodys_end(ids, mask, limit, end):
    ends = [t + 1 for t in range(min(limit, len(ids))) if ids[t] == end]
    return (ids[: ends[-1]], mask[: ends[-1]]) if ends else None


def just_cut(ids, mask, limit, end):
    return ids[:limit], mask[:limit]


def only_the_first_turn(ids, mask, limit, end):
    return (ids[:7], mask[:7]) if limit >= 7 else None


def test_whole_turns_are_accepted(capsys):
    check_too_long(whole_turns)
    assert capsys.readouterr().out == "my_cut is right for 16 limits.\n"


@pytest.mark.parametrize("wrong", [anybodys_end, just_cut, only_the_first_turn, lambda *_: None])
def test_other_cuts_are_refused(wrong):
    with pytest.raises(AssertionError, match="With a limit of .* tokens, my_cut makes"):
        check_too_long(wrong)
