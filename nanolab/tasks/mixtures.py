"""The mixtures that mid training and SFT read, and the tasks that are graded.

The tasks, their order and their sizes are nanochat's of November 2025 (scripts/mid_train.py,
scripts/chat_sft.py): order and sizes decide the shuffle, so the same rows come at the same steps.
"""

from pathlib import Path

from nanolab.tasks.arc import ARC
from nanolab.tasks.base import Task, TaskMixture, check_one_of
from nanolab.tasks.customjson import Identity
from nanolab.tasks.gsm8k import GSM8K
from nanolab.tasks.humaneval import HumanEval
from nanolab.tasks.mmlu import MMLU
from nanolab.tasks.rows import resolve_data
from nanolab.tasks.smoltalk import SmolTalk
from nanolab.tasks.spelling import SimpleSpelling, SpellingBee

# Rows of (SimpleSpelling, SpellingBee). The toy sets have some thousand rows in all: at the full sizes, 24 rows in 25
# of mid training would be spelling. In SFT it is the other way round: a small model needs more than 300 rows.
MID_SPELLING = (200_000, 80_000)
MID_SPELLING_TOY = (6_000, 3_000)
SFT_SPELLING = (300, 300)
SFT_SPELLING_TOY = (1_800, 600)
SFT_SMOLTALK_ROWS = 10_000
MID_VALIDATION_MMLU_ROWS = 5_200
MID_VALIDATION_GSM8K_ROWS = 420
GRADED_SPELLING = 256  # made-up rows have no natural number; this is nanochat's


def mid_mixture(data: str | Path | None = None) -> TaskMixture:
    """Return the mixture of mid training: chat, multiple choice, calculator, identity and a lot of spelling.

    >>> [row["task"] for row in describe(mid_mixture(data="toy"))]
    ['SmolTalk', 'MMLU', 'GSM8K', 'Identity', 'Identity', 'SimpleSpelling', 'SpellingBee']
    """
    data = resolve_data(data)
    simple, bee = MID_SPELLING_TOY if data == "toy" else MID_SPELLING
    return TaskMixture(
        [
            SmolTalk("train", data=data),
            MMLU("auxiliary_train", "train", data=data),
            GSM8K("main", "train", data=data),
            Identity(data=data),
            Identity(data=data),  # twice: a thousand rows among 850,000 would be forgotten
            SimpleSpelling(simple, "train", data=data),
            SpellingBee(bee, "train", data=data),
        ]
    )


def mid_validation(data: str | Path | None = None) -> TaskMixture:
    """Return the conversations whose loss is watched during mid training, held out and in the mixture's proportions.

    >>> [row["task"] for row in describe(mid_validation(data="toy"))]
    ['SmolTalk', 'MMLU', 'GSM8K']
    """
    data = resolve_data(data)
    return TaskMixture(
        [
            SmolTalk("test", data=data),
            MMLU("all", "test", data=data, stop=MID_VALIDATION_MMLU_ROWS),
            GSM8K("main", "test", data=data, stop=MID_VALIDATION_GSM8K_ROWS),
        ]
    )


def sft_mixture(data: str | Path | None = None) -> TaskMixture:
    """Return the mixture of SFT: a little of everything that is graded, and chat; 22,439 rows with
    data="hub".

    >>> [row["task"] for row in describe(sft_mixture(data="toy"))]
    ['ARC-Easy', 'ARC-Challenge', 'GSM8K', 'SmolTalk', 'Identity', 'SimpleSpelling', 'SpellingBee']
    """
    data = resolve_data(data)
    simple, bee = SFT_SPELLING_TOY if data == "toy" else SFT_SPELLING
    return TaskMixture(
        [
            ARC("ARC-Easy", "train", data=data),
            ARC("ARC-Challenge", "train", data=data),
            GSM8K("main", "train", data=data),
            SmolTalk("train", data=data, stop=SFT_SMOLTALK_ROWS),
            Identity(data=data),
            SimpleSpelling(simple, "train", data=data),
            SpellingBee(bee, "train", data=data),
        ]
    )


def sft_validation(data: str | Path | None = None) -> SmolTalk:
    """Return the conversations whose loss is watched during SFT: SmolTalk's test split."""
    return SmolTalk("test", data=data)


def describe(mixture: TaskMixture) -> list[dict]:
    """Return one dict a task of a mixture: task (its name), rows, share (0 to 1 of all rows).

    >>> describe(TaskMixture([Identity(data="toy", stop=30), SimpleSpelling(10, data="toy")]))
    [{'task': 'Identity', 'rows': 30, 'share': 0.75}, {'task': 'SimpleSpelling', 'rows': 10, 'share': 0.25}]
    """
    total = sum(len(task) for task in mixture.tasks)
    return [
        {
            "task": getattr(task, "name", type(task).__name__),
            "rows": len(task),
            "share": len(task) / max(total, 1),
        }
        for task in mixture.tasks
    ]


TASKS = {
    "ARC-Easy": lambda split, **options: ARC("ARC-Easy", split, **options),
    "ARC-Challenge": lambda split, **options: ARC("ARC-Challenge", split, **options),
    "MMLU": lambda split, **options: MMLU("all", split, **options),
    "GSM8K": lambda split, **options: GSM8K("main", split, **options),
    "HumanEval": HumanEval,
    "SpellingBee": lambda split, **options: SpellingBee(GRADED_SPELLING, split, **options),
    "SimpleSpelling": lambda split, **options: SimpleSpelling(GRADED_SPELLING, split, **options),
    "SmolTalk": SmolTalk,
}


def make_task(name: str, split: str = "test", data: str | Path | None = None, **view: int) -> Task:
    """Return a task by the name that the evaluation command uses; `view` is start, stop, step.

    Raises ValueError listing the names if there is none of that name.

        >>> len(make_task("SpellingBee", data="toy", stop=10))
        10
    """
    check_one_of("task", name, tuple(TASKS))
    return TASKS[name](split, data=data, **view)
