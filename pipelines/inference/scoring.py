"""Log-probabilities of given text: what evaluation and reference requests measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.inference.request import ScoreItem

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel


def score(model: PreTrainedModel, items: Sequence[ScoreItem]) -> list[NDArray[np.float64]]:
    """Return the log-probability, in nats, of each continuation token of each item, from one forward pass.

    Logits and log-softmax exist only for the positions that predict a continuation token.
    """
    longest = max(len(item) for item in items)
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    predicting = torch.zeros(len(items), longest, dtype=torch.bool)
    for row, item in enumerate(items):
        ids[row, : len(item)] = torch.tensor(item.prompt + item.continuation)
        predicting[row, len(item.prompt) - 1 : len(item) - 1] = True
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=predicting).logits
    targets = torch.tensor([token for item in items for token in item.continuation])
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    ends = np.cumsum([len(item.continuation) for item in items])[:-1]
    return np.split(-losses.double().numpy(), ends)
