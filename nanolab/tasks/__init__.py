"""Step 1 of the line: rows of data sets become conversations. Tasks never see tokens.

base        what a task is, and how tasks are mixed
rows        where rows come from: the hub (hub, download), the built-in rows (toy), or a directory (jsonfile)
schema      what the columns of each set must hold; a row that does not is named, and can be skipped
choice      multiple choice: mmlu, arc
answer      the number after "####": gsm8k, spelling
mixtures    what mid training and SFT read, and what is graded
"""

from nanolab.tasks.arc import ARC
from nanolab.tasks.base import DataError, RowError, Task, TaskMixture
from nanolab.tasks.customjson import CustomJSON, Identity
from nanolab.tasks.gsm8k import GSM8K
from nanolab.tasks.hub import DataUnavailable
from nanolab.tasks.humaneval import HumanEval
from nanolab.tasks.mixtures import (
    describe,
    make_task,
    mid_mixture,
    mid_validation,
    sft_mixture,
    sft_validation,
)
from nanolab.tasks.mmlu import MMLU
from nanolab.tasks.rows import load_rows, resolve_data
from nanolab.tasks.smoltalk import SmolTalk
from nanolab.tasks.spelling import SimpleSpelling, SpellingBee
from nanolab.tasks.text import load_text

__all__ = [
    "ARC",
    "GSM8K",
    "MMLU",
    "CustomJSON",
    "DataError",
    "DataUnavailable",
    "HumanEval",
    "Identity",
    "RowError",
    "SimpleSpelling",
    "SmolTalk",
    "SpellingBee",
    "Task",
    "TaskMixture",
    "describe",
    "load_rows",
    "load_text",
    "make_task",
    "mid_mixture",
    "mid_validation",
    "resolve_data",
    "sft_mixture",
    "sft_validation",
]
