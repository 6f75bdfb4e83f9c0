import json
from itertools import product

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from nanolab.tokenizer import NUM_BYTES, SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer


def test_special_tokens_follow_the_merges_in_their_order(small_tokenizer):
    first = small_tokenizer.vocab_size - 9
    assert [small_tokenizer.special(name) for name in SPECIAL_TOKENS] == list(range(first, first + 9))
    assert small_tokenizer.special("bos") == first == small_tokenizer.special("<|bos|>")


def test_training_gives_the_asked_vocabulary_and_merges_frequent_words(small_tokenizer):
    assert small_tokenizer.vocab_size == 320
    assert len(small_tokenizer.encode(" the")) == 1


def test_too_small_a_vocabulary_is_refused_in_words():
    with pytest.raises(ValueError, match="vocab_size 264 is too small: 256 bytes and 9 special tokens"):
        Tokenizer.train(["x"], vocab_size=264)


def test_a_text_too_small_for_the_vocabulary_gives_a_smaller_one():
    assert Tokenizer.train(["ab ab"], vocab_size=1000).vocab_size < 1000


def test_text_that_spells_a_special_token_stays_text(small_tokenizer):
    for name in SPECIAL_TOKENS:
        ids = small_tokenizer.encode(f"say {name} now")
        assert not set(ids) & set(small_tokenizer.special_ids.values())
        assert small_tokenizer.decode(ids) == f"say {name} now"


def test_longer_white_space_than_the_engine_can_take_at_once_is_encoded_with_any_digits_pattern():
    by_three = Tokenizer([bytes([b]) for b in range(NUM_BYTES)], SPLIT_PATTERN.replace("{1,2}", "{1,3}"))
    text = " " * 1_200_000 + "a 123"
    assert by_three.decode(by_three.encode(text)) == text


@pytest.mark.parametrize("letters", ["as' \n\r1!", "lrvesT'", "a1. \t\u00a0\u2028\x85", "s'\u017f\u0301\u0660 \n"])
def test_every_short_text_is_cut_as_the_pattern_says(letters):
    """In the vocabulary every text of up to four letters is one token, so that a token is a cut."""
    texts = ["".join(chosen) for n in range(1, 5) for chosen in product(letters, repeat=n)]
    assert len(texts) >= 2_800
    single = [bytes([byte]) for byte in range(NUM_BYTES)]
    tokenizer = Tokenizer(single + [text.encode() for text in texts if len(text.encode()) > 1])
    cuts = [[tokenizer.decode([i]) for i in ids] for ids in map(tokenizer.encode, texts)]
    assert cuts == [regex.findall(SPLIT_PATTERN, text) for text in texts]


def test_another_pattern_is_run_as_it_is(byte_tokenizer):
    tokenizer = Tokenizer([*byte_tokenizer.token_bytes, b"a b"], pattern=r"(?s).+")
    assert tokenizer.encode("a b") == [256] and tokenizer.pattern == r"(?s).+"


@given(st.text())
def test_decode_undoes_encode(text):
    tokenizer = Tokenizer([bytes([b]) for b in range(256)] + [b"th", b"the", b"\xc3\xa9"])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_list_is_encoded_like_its_texts_one_by_one(small_tokenizer):
    texts = ["the cat", "", "sat on\n\nthe mat", "é 你好"]
    assert small_tokenizer.encode(texts) == [small_tokenizer.encode(text) for text in texts]


@given(st.lists(st.text() | st.sampled_from(["<|bos|>", "the cat", " " * 50])), st.integers(1, 4))
def test_texts_encoded_together_have_the_ids_of_each_by_itself(texts, num_threads):
    tokenizer = Tokenizer([bytes([b]) for b in range(256)] + [b"th", b"the", b"\xc3\xa9"])
    encoded = tokenizer.encode_batch(texts, num_threads)
    assert [ids.tolist() for ids in encoded] == [tokenizer.encode(text) for text in texts]
    assert {ids.dtype for ids in encoded} <= {np.dtype("int32")}


def test_half_of_a_pair_among_several_texts_is_refused(byte_tokenizer):
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        byte_tokenizer.encode_batch(["a", "\udc80"], num_threads=2)


def test_bytes_of_a_token_that_ends_inside_a_character(byte_tokenizer):
    assert byte_tokenizer.decode_bytes([0xC3]) == b"\xc3"
    assert byte_tokenizer.decode([0xC3]) == "\ufffd"


def test_unknown_special_token_names_the_known_ones(byte_tokenizer):
    with pytest.raises(KeyError, match="assistant_start"):
        byte_tokenizer.special("system")


def test_saved_and_loaded_tokenizer_is_the_same(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("the cat sat on 1234 mats") == small_tokenizer.encode("the cat sat on 1234 mats")
    assert loaded.fingerprint == small_tokenizer.fingerprint
    assert loaded.special_ids == small_tokenizer.special_ids


def test_the_file_is_text_and_leaves_nothing_beside_it(small_tokenizer, tmp_path):
    path = small_tokenizer.save(tmp_path)
    assert json.loads(path.read_text())["special_tokens"] == list(SPECIAL_TOKENS)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


def test_missing_damaged_and_foreign_files_say_what_to_do(small_tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m nanolab tokenizer"):
        Tokenizer.load(tmp_path)
    path = small_tokenizer.save(tmp_path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="damaged"):
        Tokenizer.load(tmp_path)
    path.write_text(text.replace("nanolab-tokenizer-1", "other"))
    with pytest.raises(ValueError, match="not a tokenizer of this version"):
        Tokenizer.load(tmp_path)


def test_fingerprint_differs_when_a_token_differs(byte_tokenizer):
    assert byte_tokenizer.fingerprint != Tokenizer([*byte_tokenizer.token_bytes, b"ab"]).fingerprint
