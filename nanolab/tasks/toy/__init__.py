"""The built-in rows of a fresh machine: a small world of facts, in the schemas of the data sets on the hub.

Everything is made by rule from a few hundred true facts, some templates and fixed seeds, without a network.
It is small enough for a model of 4 layers to learn on a laptop in minutes, and its tests ask for known facts
in phrasings that were kept out of training (see facts.py).

toy_rows("gsm8k", "main", "train")[0] -> {"question": "...", "answer": "... <<3*4=12>>12 pens.\n#### 12"}
"""

from copy import deepcopy

from nanolab.tasks.toy import chats, identity, programs, prose, questions, word_problems, words

# What there is: (name, subset, split) -> how to make it.
ROWS = {
    **{("smol-smoltalk", None, split): (lambda s=split: chats.smoltalk()[s]) for split in chats.SPLITS},
    **{("mmlu", "all", split): (lambda s=split: questions.mmlu()[s]) for split in questions.MMLU_SPLITS},
    **{
        ("ai2_arc", subset, split): (lambda a=subset, s=split: questions.arc(a)[s])
        for subset, splits in questions.ARC_SPLITS.items()
        for split in splits
    },
    **{("gsm8k", "main", split): (lambda s=split: word_problems.gsm8k()[s]) for split in word_problems.SPLITS},
    ("openai_humaneval", None, "test"): programs.humaneval,
    ("identity_conversations", None, "train"): identity.identity,
    **{("pretrain_text", None, split): (lambda s=split: prose.pretrain_text(s)) for split in prose.CHARACTERS},
}


def toy_rows(name: str, subset: str | None, split: str) -> list[dict]:
    """The built-in rows of one split, as fresh dicts in the schema of the hub's data set of that name.

    Sets without subsets take None. Raises ValueError that lists what exists. Two calls, also on two machines,
    give the same rows: toy_rows("openai_humaneval", None, "test")[0]["task_id"] == "Toy/0".
    """
    if (name, subset, split) not in ROWS:
        known = "\n".join(f"  {key}" for key in ROWS)
        raise ValueError(f"no built-in rows {(name, subset, split)}; (name, subset, split) must be one of:\n{known}")
    return deepcopy(ROWS[name, subset, split]())


def toy_words() -> list[str]:
    """The built-in word list: English words of 3 to 8 letters, sorted: ["aal", "aalii", ...]."""
    return list(words.words())
