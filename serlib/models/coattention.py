"""Co-attention: the emotion's features look at those of the other tasks (Wang et al. 2025).

Letters: B batch, T frames, D width. `lengths` (B,) int64 counts the valid frames of each clip; what
the padding holds, NaN included, changes neither the result nor a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from serlib.models.pooling import valid_frames


class CoAttention(nn.Module):
    """The emotion's features look at those of the auxiliary tasks and take in what fits.

        q = W_0 h_emotion                                       k_j = W_j h_j for each task j
        content: k_asr = Σ_t softmax_t(q · k_t / √d) k_t        over the frames of the clip
        a = softmax_j(q · k_j / √d)                             over the tasks
        output = [h_emotion; Σ_j a_j k_j]

    Wang et al. (2025, section 2.3) say: projection of each branch to one dimension, a dot product
    of the emotion's features with each task's separately, softmax, a weighted sum, combined with
    the emotion's own. Not said, and our choice: d = H; scaled by √d; keys serve as values; one
    softmax over the frames of the content and one over the tasks (a single softmax over all frames
    and tasks would drown two vectors in hundreds of frames); combined by concatenation, or with
    ``combine="sum"`` by adding W_0 h_emotion.
    """

    COMBINE = ("concat", "sum")

    def __init__(self, hidden: int, tasks: Sequence[str], *, combine: str = "concat") -> None:
        """H of every branch, names of one auxiliary task or more, and how to combine."""
        super().__init__()
        if not tasks or combine not in self.COMBINE:
            raise ValueError(f"{tasks=}: at least one; {combine=}: concat or sum")
        self.tasks, self.combine = tuple(tasks), combine
        self.query = nn.Linear(hidden, hidden)
        self.keys = nn.ModuleDict({task: nn.Linear(hidden, hidden) for task in tasks})
        self.width = hidden * (2 if combine == "concat" else 1)

    def forward(
        self, emotion: Tensor, others: dict[str, Tensor], lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Fuse one emotion vector per clip with the other tasks' features.

        Args:
            emotion: (B, H).
            others: For each task (B, H), or (B, T, H) with a vector per frame.
            lengths: (B,) valid frames.

        Returns:
            Fused features (B, 2 H) or (B, H), task weights (B, J) in the order of ``tasks``, and
            frame weights (B, T), zero where padded, or None if no task has frames.
        """
        query = self.query(emotion)
        scale, frame_weights, keys = query.shape[-1] ** -0.5, None, []
        for task in self.tasks:
            key = others[task]
            if key.ndim == 2:
                key = self.keys[task](key)
            else:  # masked before the projection, whose gradient would be NaN · 0 otherwise
                key, mask, _ = valid_frames(key, lengths)
                key = self.keys[task](key).to(key.dtype)
                score = (key @ query.to(key.dtype)[:, :, None])[..., 0] * scale  # (B, T)
                frame_weights = score.masked_fill(~mask[..., 0], -torch.inf).softmax(1)
                key = (frame_weights[..., None] * key).sum(1)
            keys.append(key.to(query.dtype))
        stacked = torch.stack(keys, 1)  # (B, J, H)
        weights = (stacked @ query[:, :, None])[..., 0].float().mul(scale).softmax(1)  # (B, J)
        fused = (weights[..., None] * stacked).sum(1)
        fused = torch.cat([emotion, fused], 1) if self.combine == "concat" else query + fused
        return fused, weights, frame_weights
