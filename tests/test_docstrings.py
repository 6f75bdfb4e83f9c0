"""The examples in docstrings are true. What needs a trained model, a file or the internet is marked to be skipped."""

import doctest
import importlib
import itertools
import math
import os
import pkgutil

import ipywidgets
import pandas as pd
import pytest
import torch

import nanolab
from nanolab.batch import sft_data_generator
from nanolab.optim import linear_to_zero
from nanolab.render import render_conversation
from nanolab.show import real_row_lengths
from nanolab.tasks import GSM8K

MODULES = [found.name for found in pkgutil.walk_packages(nanolab.__path__, "nanolab.") if "__main__" not in found.name]
COMMON = {"math": math, "os": os, "pd": pd, "torch": torch, "islice": itertools.islice, "ipywidgets": ipywidgets}
COMMON |= {"linear_to_zero": linear_to_zero, "sft_data_generator": sft_data_generator, "GSM8K": GSM8K}
COMMON |= {"render_conversation": render_conversation, "real_row_lengths": real_row_lengths}


class Checker(doctest.OutputChecker):
    """Where an example shows no output, because it is a picture, any will do."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture(scope="module")
def there(byte_tokenizer) -> dict:
    """What examples use without saying where it is from."""
    task = GSM8K("main", "train", data="toy")
    ids, mask = render_conversation(task[0], byte_tokenizer)
    inputs, targets = next(sft_data_generator(task, byte_tokenizer, batch_size=4))
    rows = {"task": task, "mixture": task, "conversation": task[0], "ids": ids, "mask": mask}
    batch = {"inputs": inputs, "targets": targets, "pad_id": byte_tokenizer.special("assistant_end")}
    return {**COMMON, **rows, **batch, "tokenizer": byte_tokenizer}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name, there):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(checker=Checker(), optionflags=doctest.ELLIPSIS)
    said = []
    for examples in doctest.DocTestFinder(exclude_empty=True).find(module, globs=there | vars(module)):
        runner.run(examples, out=said.append)
    assert runner.failures == 0, "".join(said)
