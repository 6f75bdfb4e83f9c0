"""What the notebooks draw: tokens, conversations, batches, mixtures, losses and results.

Everything takes plain lists, arrays or tensors, and returns something that a notebook shows when it is a
cell's last value: HTML that follows the light or dark theme, or a matplotlib figure. Colours mean the same
everywhere (see palette.py): orange is supervised, blue is context, grey is padding.
"""

from nanolab.show.batches import batch_map, batch_maps, batch_view, inputs_targets_table, real_row_lengths
from nanolab.show.chat import ChatBox, chat_view, stream_reply
from nanolab.show.conversations import conversation_view, transcript
from nanolab.show.curves import loss_curves, smooth
from nanolab.show.explorer import RowExplorer
from nanolab.show.live import LiveCurve, progress
from nanolab.show.mixture import length_histogram, mixture_bars
from nanolab.show.next_token import next_token_bars, next_token_probabilities
from nanolab.show.plans import plan_map, plan_maps, who_sees_whom
from nanolab.show.results import before_after_table
from nanolab.show.schedules import schedule_curves
from nanolab.show.tokens import token_view

__all__ = [
    "ChatBox",
    "LiveCurve",
    "RowExplorer",
    "batch_map",
    "batch_maps",
    "batch_view",
    "before_after_table",
    "chat_view",
    "conversation_view",
    "inputs_targets_table",
    "length_histogram",
    "loss_curves",
    "mixture_bars",
    "next_token_bars",
    "next_token_probabilities",
    "plan_map",
    "plan_maps",
    "progress",
    "real_row_lengths",
    "schedule_curves",
    "smooth",
    "stream_reply",
    "token_view",
    "transcript",
    "who_sees_whom",
]
