"""Generated conversations: what hypothesis draws for the tests of rendering and of the layouts."""

from hypothesis import strategies as st

from nanolab.tokenizer import SPECIAL_TOKENS

PART_TYPES = ("text", "python", "python_output")
# Texts that once broke some tokenizer or template: special tokens, whole and half; marks of direction and of no width;
# signs of several code points; NULs; line ends of all kinds; the ends of Unicode's range.
ODD_TEXTS = (
    *SPECIAL_TOKENS,
    *("<|", "|>", "<|bos|", "bos|>", "<|<|bos|>|>", "<|assistant_end|><|user_start|>Hi", "< |bos| >"),
    *(
        "\u200b",
        "\u200d",
        "\u2060",
        "\ufeff",
        "\u202e abc \u202c",
        "\u0634\u0643\u0631\u0627",
        "\u05e9\u05dc\u05d5\u05dd",
    ),
    *("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e6\U0001f1f9", "e\u0301", "\u0301", "\u1100\u1161"),
    *("\0", "\0\0\0", "\r\n", "\r", "\n\n", "\x0b\x0c", "\x85\u2028\u2029", "\t \n", "   ", "\u3000", "\u00a0"),
    *("\ufffd", "\uffff", "\U0010ffff", "\ud7ff\ue000", "\x7f\x80", "'s'S'll", "12 345", "#### 7", "<<1+1=2>>"),
)

characters = st.characters(exclude_categories=["Cs"])  # any but halves of surrogate pairs
pieces = st.sampled_from(("a", " ", "\n", "1", "!", "\u00e9", *ODD_TEXTS))
runs = st.builds(lambda piece, times: piece * times, pieces, st.integers(2, 20))
texts = st.sampled_from(("", "Hi", "What is 12*4?", *ODD_TEXTS)) | st.text(characters, max_size=12) | runs
joined_texts = st.builds("{}{}{}".format, texts, texts, texts)
parts = st.builds(lambda kind, text: {"type": kind, "text": text}, st.sampled_from(PART_TYPES), texts)
text_parts = st.builds(lambda text: {"type": "text", "text": text}, texts)
prompts = texts | joined_texts | st.lists(text_parts, max_size=2)
replies = texts | joined_texts | st.lists(parts, max_size=4)


@st.composite
def conversations(draw) -> dict:
    """Any legal conversation: with or without a system message, ending on either side, parts or plain text."""
    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(prompts)})
    turns = draw(st.integers(1, 5))
    for turn in range(turns):
        role, content = ("user", prompts) if turn % 2 == 0 else ("assistant", replies)
        messages.append({"role": role, "content": draw(content)})
    return {"messages": messages}
