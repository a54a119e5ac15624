"""The loss of the speech recognition task, computed in float32."""

from __future__ import annotations

import torch
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

    Lengths and characters belong on the CPU: from there torch's kernel takes them, and which clips
    count is known without waiting for a GPU. From elsewhere they are fetched, which waits.

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
    lengths, tokens, n_tokens = lengths.cpu(), tokens.cpu(), n_tokens.cpu()
    is_text = torch.arange(tokens.shape[1]) < n_tokens[:, None]
    doubles = ((tokens[:, 1:] == tokens[:, :-1]) & is_text[:, 1:]).sum(1)
    usable = (n_tokens > 0) & (n_tokens + doubles <= lengths)
    there = (tokens, is_text, usable, n_tokens)
    tokens, is_text, kept, many = (x.to(logits.device, non_blocking=True) for x in there)
    tokens = tokens.masked_fill(~is_text, 0)
    # What `functional.ctc_loss` calls after it has copied the characters to the CPU, twice, to ask
    # for kernels of others. An impossible target would make the gradient NaN, not only the loss.
    log_p = logits.float().log_softmax(-1).transpose(0, 1)
    losses = torch._ctc_loss(log_p, tokens, lengths, n_tokens * usable)[0].masked_fill(~kept, 0)
    if reduction == "characters":
        losses = losses / many.clamp(min=1)
    return losses.sum() if reduction == "sum" else losses.sum() / max(1, int(usable.sum()))
