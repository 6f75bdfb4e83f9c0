"""Out to transformers and in from it: transformers, tokenizers and TRL themselves are the judges."""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nanolab.batch import pad_batch
from nanolab.checkpoint import load_checkpoint, save_checkpoint
from nanolab.convert.chat_template import HIDE, JOIN, KEEP
from nanolab.convert.from_transformers import read_fast_tokenizer, read_transformers
from nanolab.convert.nanochat import save_imported
from nanolab.convert.to_transformers import FILES, export_transformers, fast_tokenizer, merges_of
from nanolab.engine import Engine
from nanolab.render import RenderError, conversation_segments, render_conversation, render_for_completion
from nanolab.tasks import GSM8K, sft_mixture
from nanolab.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.conftest import BYTES, random_model
from tests.strategies import ODD_TEXTS, conversations

REAL = os.environ.get("NANOLAB_DATA", "toy")
needs_real_rows = pytest.mark.skipif(
    not Path(REAL, "gsm8k").is_dir(), reason="NANOLAB_DATA does not name a directory with the real data sets"
)
META = {
    "stage": "sft",
    "model_tag": "d4",
    "step": 7,
    "settings": {"data": "toy", "depth": 4},
    "metrics": {"val_loss": 1.25},
    "provenance": {
        "data": "toy",
        "rows": {"0 GSM8K": 12},
        "versions": {"nanolab": "0.1.0", "commit": "abc1234"},
        "parent": {"stage": "mid", "model_tag": "d4", "step": 3},
    },
}


def rows_of(data: str, number: int) -> list[dict]:
    mixture = sft_mixture(data=data)
    return [mixture[i] for i in range(0, len(mixture), len(mixture) // number)][:number]


def texts_of(rows: list[dict]) -> list[str]:
    return [s.text for row in rows for s in conversation_segments(row) if not s.is_special]


@pytest.fixture(scope="module")
def toy_rows():
    return rows_of("toy", 500)


@pytest.fixture(scope="module")
def ours(toy_rows) -> Tokenizer:
    return Tokenizer.train(texts_of(toy_rows), vocab_size=1024)


@pytest.fixture(scope="module")
def model(ours):
    return random_model(ours.vocab_size, depth=4)


@pytest.fixture(scope="module")
def folder(ours, model, tmp_path_factory) -> Path:
    """An exported model of the d4 shape; not to be changed."""
    return export_transformers(model, ours, META, tmp_path_factory.mktemp("export") / "d4")


@pytest.fixture(scope="module")
def theirs(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def their_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """The exported folder again, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change_json(path: Path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def assert_same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def user(content):
    return {"role": "user", "content": content}


def assistant(*content):
    """A reply: one text, or parts as (type, text)."""
    if len(content) == 1 and isinstance(content[0], str):
        return {"role": "assistant", "content": content[0]}
    return {"role": "assistant", "content": [{"type": kind, "text": text} for kind, text in content]}


# Weights, shape, generation


def test_out_and_in_again_is_bit_by_bit_the_same(folder, model, ours):
    back = read_transformers(folder)
    assert_same_weights(back.model, model)
    assert back.model.config == model.config and not back.model.training
    assert back.tokenizer.fingerprint == ours.fingerprint
    assert back.tokenizer.token_bytes == ours.token_bytes and back.tokenizer.special_ids == ours.special_ids


def test_grouped_key_heads_and_a_head_wider_than_the_tokenizer_come_back_too(ours, tmp_path):
    from nanolab.gpt import GPT, GPTConfig

    config = GPTConfig(sequence_len=96, vocab_size=1100, n_layer=1, n_head=4, n_kv_head=2, n_embd=64)
    back = read_transformers(export_transformers(GPT(config), ours, {}, tmp_path / "gqa"))
    assert back.model.config == config


def test_it_loads_by_itself_and_its_logits_are_ours(their_model, model):
    assert type(their_model).__name__ == "NanoChatForCausalLM" and their_model.dtype == torch.float32
    inputs = torch.randint(0, model.config.vocab_size, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine, others = model(inputs), their_model(inputs).logits
    assert mine.std() > 0.1
    torch.testing.assert_close(others, mine, rtol=0, atol=1e-4)


def test_bfloat16_weights_stay_bfloat16(ours, tmp_path):
    from transformers import AutoModelForCausalLM

    small = random_model(ours.vocab_size).to(torch.bfloat16)
    place = export_transformers(small, ours, {}, tmp_path / "bf16")
    assert {w.dtype for w in load_file(place / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(place).dtype == torch.bfloat16
    assert_same_weights(read_transformers(place).model, small.float())


def test_greedy_generation_is_our_engines_reply(folder, their_model, theirs, model, ours, toy_rows):
    engine, compared = Engine(model, ours), 0
    tools = {ours.special("python_start"), ours.special("python_end")}
    for row in toy_rows[:6]:
        prompt = render_for_completion(row, ours)
        reply = engine.generate([prompt], max_tokens=16, temperature=0)[0]
        inputs = theirs.apply_chat_template(row["messages"], add_generation_prompt=True, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == prompt
        said = their_model.generate(**inputs, max_new_tokens=16)[0, len(prompt) :].tolist()
        stops = [k for k, token in enumerate(said) if token in their_model.generation_config.eos_token_id]
        if not tools & set(reply):
            compared += 1
            assert said[: stops[0] if stops else None] == reply
    assert compared >= 4


def test_generation_ends_where_ours_does(their_model, model, ours):
    """A head that wants one token after any other: generate says it once and stops."""
    for name in ("assistant_end", "bos"):
        stubborn = random_model(ours.vocab_size, depth=4)
        with torch.no_grad():
            stubborn.lm_head.weight.zero_()
            hidden = stubborn.hidden(torch.tensor([[1, 2, 3]]))[0, -1]
            stubborn.lm_head.weight[ours.special(name)] = hidden
        with tempfile.TemporaryDirectory() as place:
            from transformers import AutoModelForCausalLM

            loaded = AutoModelForCausalLM.from_pretrained(export_transformers(stubborn, ours, {}, Path(place, "x")))
            inputs = torch.tensor([[1, 2, 3]])
            said = loaded.generate(inputs, attention_mask=torch.ones_like(inputs))[0, 3:].tolist()
        assert said == [ours.special(name)]
        assert Engine(stubborn, ours).generate([[1, 2, 3]], temperature=0) == [[]]


def test_the_generation_settings_are_greedy_and_padding_is_never_a_token_that_is_learned(their_model, theirs, ours):
    generation = their_model.generation_config
    assert not generation.do_sample and generation.max_new_tokens == 256
    assert generation.eos_token_id == [ours.special("assistant_end"), ours.special("bos")]
    assert generation.pad_token_id == theirs.pad_token_id == ours.special("bos")
    assert theirs.eos_token_id == ours.special("assistant_end")
    assert their_model.model.embed_tokens.padding_idx is None  # else that row would never learn


# The tokenizer


def random_texts(number: int, seed: int = 0) -> list[str]:
    """Texts of all of Unicode, of spaces and line ends, of ASCII, of letters, mixed."""
    rng = random.Random(seed)
    kinds = (
        lambda: chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))),
        lambda: rng.choice(" \n\t\r'\x0b\x85\u00a0\u2028\u3000"),
        lambda: chr(rng.randrange(32, 127)),
        lambda: rng.choice("0123456789abcdeflstvdrm ''"),
        lambda: chr(rng.randrange(0xA0, 0x3000)),
        lambda: rng.choice(ODD_TEXTS),
    )
    return ["".join(rng.choice(kinds)() for _ in range(rng.randrange(30))) for _ in range(number)]


def assert_encode_alike(theirs, ours: Tokenizer, texts: list[str]):
    found = theirs(texts, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    differing = [text for text, ids in zip(texts, found, strict=True) if ids != ours.encode(text)]
    assert not differing, f"{len(differing)} of {len(texts)}, the first {differing[0]!r}"


def test_tokenizers_agree_on_ten_thousand_random_texts_and_on_toy_rows(theirs, ours, toy_rows):
    texts = random_texts(10_000) + list(ODD_TEXTS) + texts_of(toy_rows)
    assert sum("<|" in text for text in texts) > 1_000
    assert_encode_alike(theirs, ours, texts)
    assert theirs.decode(ours.encode("a é <|bos|> .")) == "a é <|bos|> ."


@pytest.mark.parametrize("place", [0, 1])
def test_tokenizers_agree_on_the_characters_of_unicode(theirs, ours, place):
    """In front of letters and behind an apostrophe: the two engines know the same letters, digits and spaces."""
    some = (*range(0xD800), *range(0xE000, 0x10000), *range(0x18000, 0x110000))  # of the large blocks every 37th
    codes = (*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x18000), *some[::37])
    characters = [chr(c) for c in codes if not 0xD800 <= c < 0xE000]
    texts = ["".join(f"{c}a" if place == 0 else f"'{c} 1" for c in characters[k::50]) for k in range(50)]
    assert_encode_alike(theirs, ours, texts)


def test_by_default_only_texts_that_spell_control_tokens_differ(theirs, ours):
    texts = [text for text in random_texts(2_000, seed=1) if "<|" not in text]
    found = theirs(texts)["input_ids"]
    assert found == ours.encode(texts)
    assert theirs("a<|bos|>")["input_ids"] == [*ours.encode("a"), ours.special("bos")]
    assert theirs("a<|bos|>", split_special_tokens=True)["input_ids"] == ours.encode("a<|bos|>")


@needs_real_rows
def test_tokenizers_agree_on_real_rows(theirs, ours):
    assert_encode_alike(theirs, ours, texts_of(rows_of(REAL, 1_500)))


def wrapped(tokenizer: Tokenizer):
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    built = tokenizers.Tokenizer.from_str(json.dumps(fast_tokenizer(tokenizer)))
    return PreTrainedTokenizerFast(tokenizer_object=built)


def test_vocabularies_that_no_merge_reaches_agree_too(byte_tokenizer, word_tokenizer, small_tokenizer):
    """Tokens of whole words without their beginnings, and tokens whose last merge is not the obvious one."""
    odd = Tokenizer([*BYTES, b"hell", b"bc", b"ab", b"abc", b"aa", b"aaa", b"aaaa", b"xyz", b"xy", b"yz", b"xyzz"])
    words = word_tokenizer("hello there", "the cat")
    pieces = ["hello", "there", " there", "hell", "abc", "bcab", "aaaaaaa", "xyzz", "xyzzz", "a", "b", "c", " ", "cat"]
    rng = random.Random(3)
    texts = ["".join(rng.choice(pieces) for _ in range(rng.randrange(12))) for _ in range(1_000)]
    for tokenizer in (byte_tokenizer, words, small_tokenizer, odd):
        assert_encode_alike(wrapped(tokenizer), tokenizer, texts)


def test_merges_are_recovered_from_ranks_alone():
    assert list(merges_of([b"a", b"b", b"ab", b"abab"])) == [(0, 1), (2, 2)]
    assert list(merges_of([b"a", b"b", b"c", b"bc", b"abc"])) == [(1, 2), (0, 3)]
    assert list(merges_of([b"a", b"b", b"c", b"abc"])) == []  # nothing makes two of it


# The chat template

CALL = (("text", "6*7 is "), ("python", "6*7"), ("python_output", "42"), ("text", "42."))
TEXT = {"type": "text", "text": ""}
KINDS = {
    "one turn": [user("Hi"), assistant("Yo")],
    "several turns": [user("a"), assistant("b"), user("c"), assistant("d")],
    "ends on the user": [user("a"), assistant("b"), user("c")],
    "only the user": [user("a")],
    "system": [{"role": "system", "content": "Be kind."}, user("a"), assistant("b")],
    "system in parts": [{"role": "system", "content": [{**TEXT, "text": "Be "}, TEXT]}, user("a"), assistant("b")],
    "system that breaks a token": [{"role": "system", "content": "x<|bos"}, user("|>"), assistant("b")],
    "empty texts": [user(""), assistant(""), user(""), assistant("")],
    "spaces": [user(" \n a  "), assistant("\n\n b \n"), user(" "), assistant(" ")],
    "spells control tokens": [user("<|assistant_end|>"), assistant("<|user_start|>Hi<|assistant_end|><|bos|>")],
    "halves of control tokens": [user("<|"), assistant("bos|>"), user("<"), assistant("|assistant_end|>")],
    "parts that spell one": [user([{**TEXT, "text": "<"}, {**TEXT, "text": "|bos|>"}]), assistant("b")],
    "a call": [user("6*7?"), assistant(*CALL)],
    "calls in turn": [user("?"), assistant(*CALL), user("again"), assistant(*CALL, *CALL[1:])],
    "a call without text": [user("?"), assistant(("python", "1+1"), ("python_output", "2"))],
    "empty parts": [user("?"), assistant(("text", ""), ("python", ""), ("python_output", ""), ("text", ""))],
    "no parts": [user([]), assistant()],
    "output first": [user("?"), assistant(("python_output", "2"), ("text", "two"))],
    "texts side by side": [user("?"), assistant(("text", "th"), ("text", "e"), ("text", ""), ("text", " cat"))],
    "texts that spell one": [user("?"), assistant(("text", "<"), ("text", "|assistant_end|>"))],
    "output that spells one": [user("?"), assistant(("python", "<|python_end|>"), ("python_output", "<|output_end|>"))],
    "characters of several tokens": [user("\u2603"), assistant("\U0001f468\u200d\U0001f469"), user("\u00e9")],
    "a call behind one": [user("?"), assistant(("text", "\u2603"), ("python", "1\u2603"), ("python_output", "\u2603"))],
    "marks of the template": [user(HIDE + KEEP), assistant("\ufdd0"), user("\ufdd0<|"), assistant(KEEP + HIDE * 2)],
    "texts of marks": [user("?"), assistant(("text", "\ufdd0"), ("text", "\ufdd2"), ("text", "\ufdd1"))],
    "odd texts": [message for text in ODD_TEXTS for message in (user(text), assistant(text))],
}


def assert_rendered_alike(messages: list[dict], theirs, ours: Tokenizer):
    conversation = {"messages": messages}
    ids, mask = render_conversation(conversation, ours)
    found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert found["input_ids"] == ids
    assert found["assistant_masks"] == mask
    prompt = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert prompt == render_for_completion(conversation, ours)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_mask_and_prompt_agree_on_each_kind_of_conversation(kind, theirs, ours, byte_tokenizer):
    assert_rendered_alike(KINDS[kind], theirs, ours)
    bytewise = wrapped(byte_tokenizer)
    bytewise.chat_template = theirs.chat_template
    assert_rendered_alike(KINDS[kind], bytewise, byte_tokenizer)


def test_ids_mask_and_prompt_agree_on_500_toy_rows(theirs, ours, toy_rows):
    assert len(toy_rows) == 500
    assert any(isinstance(message["content"], list) for row in toy_rows for message in row["messages"])
    for row in toy_rows:
        assert_rendered_alike(row["messages"], theirs, ours)


@needs_real_rows
def test_ids_mask_and_prompt_agree_on_500_real_rows(theirs, ours):
    for row in rows_of(REAL, 500):
        assert_rendered_alike(row["messages"], theirs, ours)


def output_behind_a_wide_character(messages: list[dict]) -> bool:
    """Whether the template must refuse it: see chat_template.py."""
    parts = [m["content"] for m in messages if m["role"] == "assistant" and isinstance(m["content"], list)]
    spoken = [[p for p in content if p["text"] or p["type"] != "text"] for content in parts]
    neighbours = [pair for content in spoken for pair in zip(content, content[1:], strict=False)]
    return any(a["type"] == "text" and a["text"][-1] > "\x7f" and b["type"] != "text" for a, b in neighbours)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ids_mask_and_prompt_agree_on_any_conversation(data, theirs, ours):
    messages = data.draw(conversations())["messages"]
    assume(not output_behind_a_wide_character(messages) and JOIN not in str(messages))
    assert_rendered_alike(messages, theirs, ours)


def test_many_conversations_at_once_are_rendered_as_one_by_one(theirs, ours):
    chats = [KINDS["a call"], KINDS["one turn"]]
    found = theirs.apply_chat_template(chats, return_dict=True, return_assistant_tokens_mask=True)
    assert found["assistant_masks"] == [render_conversation({"messages": chat}, ours)[1] for chat in chats]


def test_transformers_own_guard_against_control_tokens_changes_nothing(theirs, ours):
    messages = KINDS["spells control tokens"]
    found = theirs.apply_chat_template(messages, sanitize_control_tokens=True)["input_ids"]
    assert found == render_conversation({"messages": messages}, ours)[0]


MALFORMED = {
    "assistant first": [assistant("a")],
    "two users": [user("a"), user("b")],
    "unknown role": [{"role": "tool", "content": "a"}],
    "system alone": [{"role": "system", "content": "a"}],
    "system before assistant": [{"role": "system", "content": "a"}, assistant("b")],
    "late system": [user("a"), {"role": "system", "content": "b"}],
    "no content": [{"role": "user"}],
    "a number": [user(3)],
    "a table": [user({"type": "text", "text": "a"})],
    "a user's call": [user([{"type": "python", "text": "1"}])],
    "unknown part": [user("a"), assistant(("image", "b"))],
    "a part of no text": [user("a"), {"role": "assistant", "content": [{"type": "text", "text": 3}]}],
    "a part that is text": [user("a"), {"role": "assistant", "content": ["b"]}],
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_our_rendering_refuses_the_template_refuses(kind, theirs, ours):
    from jinja2 import TemplateError

    with pytest.raises(RenderError):
        render_conversation({"messages": MALFORMED[kind]}, ours)
    with pytest.raises(TemplateError):
        theirs.apply_chat_template(MALFORMED[kind])


def test_the_one_mask_that_cannot_be_said_is_refused_and_never_wrong(theirs, ours):
    from jinja2 import TemplateError

    messages = [user("?"), assistant(("text", "\u2603"), ("python_output", "2"))]
    with pytest.raises(TemplateError, match="beyond ASCII"):
        theirs.apply_chat_template(messages)
    messages[1]["content"][0]["text"] += " "
    assert_rendered_alike(messages, theirs, ours)


def test_the_only_text_the_template_cannot_carry_is_its_own_joint(theirs, ours):
    found = theirs.apply_chat_template([user(f"a{JOIN}b"), assistant("c")])["input_ids"]
    ids, _ = render_conversation({"messages": [user(""), assistant("c")]}, ours)
    assert found == [*ids[:2], *ours.encode("a"), *ours.encode("b"), *ids[2:]]  # cut, and two characters are gone


# The folder


def test_the_folder_holds_the_files_it_should_and_the_card_says_where_they_come_from(folder, ours):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["d4"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    for said in (
        "license: unknown",
        "sft, model tag d4, step 7",
        "stage: mid",
        "0 GSM8K: 12",
        "abc1234",
        ours.fingerprint,
    ):
        assert said in card
    assert "U+FDD0 U+FDD3" in card and '"depth": 4' in card


def test_a_licence_in_the_metadata_stands_in_the_card(ours, tmp_path):
    place = export_transformers(random_model(ours.vocab_size), ours, {"license": "cc-by-4.0"}, tmp_path / "x")
    assert "\nlicense: cc-by-4.0\n" in (place / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no name that the hub knows"):
        export_transformers(random_model(ours.vocab_size), ours, {"license": "my own\nrules"}, tmp_path / "y")


def test_an_export_is_on_the_disk_before_it_is_renamed_in(ours, model, tmp_path, monkeypatch):
    done, fsync, rename = [], os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.fstat(fd).st_ino), fsync(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (done.append("renamed"), rename(self, to))[1])
    written = export_transformers(model, ours, META, tmp_path / "d4")
    before, after = done[: done.index("renamed")], done[done.index("renamed") + 1 :]
    assert set(before) == {path.stat().st_ino for path in (written, *written.iterdir())}
    assert after == [tmp_path.stat().st_ino]


def test_an_earlier_export_is_replaced_and_anything_else_is_left_alone(ours, tmp_path):
    place = tmp_path / "deep" / "x"
    export_transformers(random_model(ours.vocab_size, seed=1), ours, {"step": 1}, place)
    export_transformers(random_model(ours.vocab_size, seed=2), ours, {"step": 2}, place)
    assert_same_weights(read_transformers(place).model, random_model(ours.vocab_size, seed=2))
    assert [path.name for path in place.parent.iterdir()] == ["x"]
    (place / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"something else than an earlier export \(notes.txt\)"):
        export_transformers(random_model(ours.vocab_size), ours, {}, place)
    assert (place / "notes.txt").read_text() == "mine" and read_transformers(place).meta["step"] == 2
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="something else"):
        export_transformers(random_model(ours.vocab_size), ours, {}, tmp_path / "hf")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not a folder"):
        export_transformers(random_model(ours.vocab_size), ours, {}, tmp_path / "file")


def test_an_export_that_fails_leaves_the_earlier_one_and_no_rubbish(ours, tmp_path, monkeypatch):
    place = export_transformers(random_model(ours.vocab_size), ours, {"step": 1}, tmp_path / "x")

    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("nanolab.convert.to_transformers.save_file", full)
    with pytest.raises(OSError, match="Could not write.*No space left.*is there still"):
        export_transformers(random_model(ours.vocab_size), ours, {"step": 2}, place)
    assert read_transformers(place).meta["step"] == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["x"]


def test_what_cannot_be_equal_is_not_exported(ours, tmp_path):
    with pytest.raises(ValueError, match="do not belong together"):
        export_transformers(random_model(ours.vocab_size - 1), ours, {}, tmp_path / "x")
    with pytest.raises(ValueError, match="another pattern"):
        export_transformers(random_model(300), Tokenizer(BYTES, r"\w+|\W+"), {}, tmp_path / "x")
    with pytest.raises(ValueError, match=r"ordinary token spells <\|bos\|>"):
        export_transformers(random_model(300), Tokenizer([*BYTES, b"<|bos|>"]), {}, tmp_path / "x")
    assert not (tmp_path / "x").exists()


# In again


def test_an_imported_folder_becomes_a_checkpoint_that_remembers_its_origin(folder, model, ours):
    save_imported(read_transformers(folder), "sft", "back")
    loaded = load_checkpoint("sft", "back")
    assert_same_weights(loaded.model, model)
    assert loaded.meta["step"] == 7 and loaded.meta["settings"] == META["settings"]
    assert loaded.meta["stage"] == "sft" and loaded.meta["model_tag"] == "back"
    origin = loaded.meta["provenance"]["exported"]
    assert origin["provenance"] == META["provenance"] and origin["model_tag"] == "d4"


def test_a_checkpoint_of_ours_goes_out_and_in_with_its_own_metadata(tiny_model, small_tokenizer, tmp_path):
    save_checkpoint("mid", "d2", 12, tiny_model, small_tokenizer, {"settings": {"data": "toy"}})
    place = export_transformers(*load_checkpoint("mid", "d2")[:3], tmp_path / "x")
    back = read_transformers(place)
    assert back.meta["step"] == 12 and back.tokenizer.fingerprint == small_tokenizer.fingerprint
    assert_same_weights(back.model, tiny_model)


def test_weights_that_were_trained_further_lose_the_old_metrics(copy):
    weights = load_file(copy / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, copy / "model.safetensors")
    meta = read_transformers(copy).meta
    assert meta["step"] == 0 and meta["metrics"] == {} and "exported" not in meta["provenance"]


def test_what_transformers_has_saved_again_in_several_files_is_read(their_model, theirs, model, ours, tmp_path):
    their_model.save_pretrained(tmp_path / "again", max_shard_size="4MB")
    theirs.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors.index.json").exists()
    back = read_transformers(tmp_path / "again")
    assert_same_weights(back.model, model)
    assert back.tokenizer.fingerprint == ours.fingerprint and back.model.config == model.config


def test_a_tokenizer_that_transformers_made_of_the_same_ranks_is_ours(ours, copy):
    """Without our marks, with every way to cut a token as a merge: what transformers makes of a tiktoken encoding."""

    def plain(content):
        content["normalizer"] = None
        content["pre_tokenizer"]["pretokenizers"].pop(0)
        vocab = content["model"]["vocab"]
        cuts = [(t[:k], t[k:]) for t in sorted(vocab, key=vocab.get) for k in range(1, len(t))]
        content["model"]["merges"] = [f"{a} {b}" for a, b in cuts if a in vocab and b in vocab]
        content["model"]["ignore_merges"] = False

    change_json(copy / "tokenizer.json", plain)
    assert read_transformers(copy).tokenizer.fingerprint == ours.fingerprint


def other_kind(folder):
    change_json(folder / "config.json", lambda c: c.update(model_type="llama", architectures=["LlamaForCausalLM"]))


def other_activation(folder):
    change_json(folder / "config.json", lambda c: c.update(hidden_act="gelu"))


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def a_weight_less(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors")


def files_from_elsewhere(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "../copy/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def a_file_less(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_json(folder):
    (folder / "config.json").write_text("[" * 100_000)


def tokenizer_with(change):
    return lambda folder: change_json(folder / "tokenizer.json", change)


def other_order(content):
    merges = content["model"]["merges"]
    merges[3], merges[40] = merges[40], merges[3]


def other_spelling(content):
    vocab = content["model"]["vocab"]
    vocab["two words"] = vocab.pop(max(vocab, key=vocab.get))


def other_split(content):
    content["pre_tokenizer"]["pretokenizers"][1]["pattern"]["Regex"] = r"\s+|\S+"


DAMAGES = {
    "other kind of model": (other_kind, "'llama'; nanolab reads 'nanochat'"),
    "other activation": (other_activation, "hidden_act"),
    "only a pickle": (only_a_pickle, "pytorch_model.bin, a pickle"),
    "no weights": (no_weights, "neither model.safetensors nor"),
    "cut weights": (cut_weights, "damaged, or no safetensors"),
    "a weight less": (a_weight_less, "missing: lm_head.weight"),
    "files from elsewhere": (files_from_elsewhere, "no safetensors file in the folder itself"),
    "a file less": (a_file_less, "no file model-00001-of-00002"),
    "no json": (no_json, "config.json is damaged"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no file .*tokenizer.json"),
    "other kind of tokenizer": (tokenizer_with(lambda c: c["model"].update(type="Unigram")), "'Unigram'"),
    "normalized texts": (tokenizer_with(lambda c: c.update(normalizer={"type": "NFC"})), "changes texts.*NFC"),
    "other split": (tokenizer_with(other_split), "another pattern"),
    "GPT-2's split": (tokenizer_with(lambda c: c.update(pre_tokenizer={"type": "ByteLevel"})), "cuts texts by Byte"),
    "merges in another order": (tokenizer_with(other_order), "merges are not in the order"),
    "a merge less": (tokenizer_with(lambda c: c["model"]["merges"].pop(5)), "some are missing"),
    "a control token less": (tokenizer_with(lambda c: c["added_tokens"].pop(5)), "python_start"),
    "a token twice": (tokenizer_with(lambda c: c["model"]["vocab"].update(a=5)), "ids of its tokens are not 0 to"),
    "not byte-level": (tokenizer_with(other_spelling), "stands for no byte"),
    "no merges": (tokenizer_with(lambda c: c["model"].pop("merges")), "damaged, or of another kind"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_folders_are_refused_in_words(damage, copy):
    change, words = DAMAGES[damage]
    change(copy)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read_transformers(copy)


def test_our_own_checkpoint_is_no_folder_of_transformers(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path)
    with pytest.raises(ValueError, match="nanolab's own tokenizer"):
        read_fast_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        read_transformers(tmp_path)


# TRL


@pytest.mark.slow
def test_trl_trains_the_export_on_the_replies_only_and_begins_with_our_loss(folder, theirs, model, ours, tmp_path):
    pytest.importorskip("trl", reason='TRL is not installed: pip install -e ".[bench]"')
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    task = GSM8K("main", "train", data="toy")
    rows = [{"messages": [in_parts(message) for message in task[i]["messages"]]} for i in range(20)]
    assert any(part["type"] == "python_output" for row in rows for part in row["messages"][1]["content"])
    config = SFTConfig(
        output_dir=str(tmp_path),
        **{"use_cpu": True, "bf16": False, "max_length": None, "gradient_checkpointing": False},
        **{"assistant_only_loss": True, "max_steps": 5, "per_device_train_batch_size": 4, "logging_steps": 1},
        **{"train_sampling_strategy": "sequential", "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
    )
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    trainer = SFTTrainer(loaded, config, train_dataset=Dataset.from_list(rows), processing_class=theirs)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    batch = pad_batch([render_conversation(row, ours) for row in rows[:4]], ours.special("assistant_end"))
    with torch.no_grad():
        assert losses[0] == pytest.approx(model(batch.inputs, batch.targets).item(), abs=1e-3)
    assert len(losses) == 5 and losses[-1] != losses[0]
    trainer.save_model(str(tmp_path / "trained"))
    back = read_transformers(tmp_path / "trained")  # and what TRL has trained becomes ours again
    assert back.tokenizer.fingerprint == ours.fingerprint
    trained = trainer.model.state_dict()
    assert torch.equal(back.model.lm_head.weight, trained["lm_head.weight"])
    assert not torch.equal(back.model.lm_head.weight, model.lm_head.weight)


def in_parts(message: dict) -> dict:
    """The same message with its content as parts: a column of a table has one type."""
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def test_every_control_token_is_one_token_of_theirs(theirs, ours):
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [ours.special(name) for name in SPECIAL_TOKENS]
    assert len(theirs) == ours.vocab_size
