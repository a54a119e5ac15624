"""The loss of the speech recognition task, computed in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch user expects)
from torch import Tensor


def ctc_loss(
    logits: Tensor, lengths: Tensor, tokens: Tensor, n_tokens: Tensor, *, reduction: str = "clips"
) -> Tensor:
    """Connectionist temporal classification: l = -log Σ_π Π_t p_t(π_t), blank 0.

    The sum runs over all ways π to spread a clip's characters over its frames, with repeats and
    blanks. Graves et al. (ICML 2006), eq. 14.

    `reduction` decides what a weight on this loss means:

    - "sum": Σ l over the batch, the default of the library that Cai et al. (2021) used. Twice the
      clips in a batch, or twice the characters in a clip, weigh twice;
    - "clips": mean of l over the batch's clips: long transcripts weigh more, the batch size not;
    - "characters": mean over clips of l / S, torch's "mean": neither weighs.

    A clip counts if it has a transcript that fits its frames: S plus one blank in each double
    letter. All others contribute nothing, and 0 with a zero gradient comes of a batch without any.

    Args:
        logits: (B, T, V).
        lengths: (B,) valid frames.
        tokens: (B, S) int64, characters from 1 on, padded with anything.
        n_tokens: (B,) characters of each clip; 0 where the transcript is unknown.
        reduction: "sum", "clips" or "characters".

    Returns:
        Scalar float32.

    >>> logits = torch.zeros(1, 2, 2)  # two frames, p = 1/2 each: of "aa", "-a", "a-", "--"
    >>> ctc_loss(logits, torch.tensor([2]), torch.tensor([[1]]), torch.tensor([1]))  # log 4/3
    tensor(0.2877)
    """
    if reduction not in ("sum", "clips", "characters"):
        raise ValueError(f"reduction={reduction!r}: choose sum, clips or characters")
    lengths, n_tokens = lengths.to(logits.device), n_tokens.to(logits.device)
    place = torch.arange(tokens.shape[1], device=logits.device)
    tokens = tokens.to(logits.device).masked_fill(place >= n_tokens[:, None], 0)
    doubles = ((tokens[:, 1:] == tokens[:, :-1]) & (place[1:] < n_tokens[:, None])).sum(1)
    usable = (n_tokens > 0) & (n_tokens + doubles <= lengths)
    losses = F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        tokens,
        lengths,
        n_tokens * usable,  # an impossible target would make the gradient NaN, not only the loss
        reduction="none",
    ).masked_fill(~usable, 0)
    if reduction == "characters":
        losses = losses / n_tokens.clamp(min=1)
    return losses.sum() if reduction == "sum" else losses.sum() / usable.sum().clamp(min=1)
