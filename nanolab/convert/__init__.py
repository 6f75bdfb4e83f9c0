"""Beside the line: foreign checkpoints become ours, and ours become transformers'.

names             the same weights and settings under transformers' names, both ways
nanochat          a nanochat folder of November 2025 becomes ours
unpickle          its pickled tokenizer, read without running anything
hub               a name on the Hugging Face hub becomes a local folder
to_transformers   ours becomes a folder that transformers loads
from_transformers and such a folder becomes ours
chat_template     our rendering of conversations as a template
commands          `nanolab import` and `nanolab export`
"""

from nanolab.convert.from_transformers import read_transformers
from nanolab.convert.hub import hub_folder
from nanolab.convert.names import (
    Imported,
    config_from_transformers,
    transformers_settings,
    transformers_weights,
    weights_from_transformers,
)
from nanolab.convert.nanochat import read_nanochat, save_imported
from nanolab.convert.to_transformers import export_transformers

__all__ = [
    "Imported",
    "config_from_transformers",
    "export_transformers",
    "hub_folder",
    "read_nanochat",
    "read_transformers",
    "save_imported",
    "transformers_settings",
    "transformers_weights",
    "weights_from_transformers",
]
