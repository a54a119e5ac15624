"""From frames to one vector per clip: pooling over time.

Shapes: B batch, T frames, D width. `lengths` (B,) int64 counts the valid frames of each clip; the
others are padding, and whatever they hold, NaN included, changes neither the result nor a gradient.
Pooling runs in float32 even under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from serlib.models.encoders.checkpoints import frame_mask

VARIANCE_FLOOR = 1e-5  # as in the challenge baseline; a standard deviation of at least 0.003


def valid_frames(frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frames in float32 with zeros for padding, mask (B, T, 1), lengths on the frames' device."""
    batch, n_frames, _ = frames.shape
    padded = True
    if lengths.shape != (batch,):
        raise ValueError(f"lengths {tuple(lengths.shape)} for {batch} clips: need (B,)")
    # On a GPU, looking at the values would stall the queue; batches carry lengths on the CPU.
    if lengths.device.type == "cpu":
        if not ((lengths >= 1) & (lengths <= n_frames)).all():
            raise ValueError(
                f"lengths {lengths.tolist()} for {n_frames} frames: need 1 to T valid frames per "
                "clip (are these samples instead of frames?)"
            )
        padded = bool((lengths < n_frames).any())
    lengths = lengths.to(frames.device, non_blocking=True)
    mask = frame_mask(lengths, n_frames)[..., None]
    frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
    if padded:  # a choice and not a product, because 0 * NaN is NaN
        frames = torch.where(mask, frames, 0)
    return frames, mask, lengths


class SumPool(nn.Module):
    """Sum over the valid frames, as the text of Cai et al. (2021, section 3.1) has it.

    The result grows with the duration of the clip, which is why it is a chapter's experiment.

    >>> SumPool()(torch.ones(1, 3, 2), torch.tensor([2])).tolist()
    [[2.0, 2.0]]
    """

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, D) and lengths (B,) to (B, D) float32."""
        frames, _, _ = valid_frames(frames, lengths)
        return frames.sum(dim=1)


class MeanPool(nn.Module):
    """Mean over the valid frames, as the released code of Cai et al. (2021) does, but masked.

    >>> MeanPool()(torch.tensor([[[1.0], [3.0], [torch.nan]]]), torch.tensor([2])).tolist()
    [[2.0]]
    """

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, D) and lengths (B,) to (B, D) float32."""
        frames, _, lengths = valid_frames(frames, lengths)
        return frames.sum(dim=1) / lengths[:, None]


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation over time, weighted by a learned attention.

        e_t = v · tanh(W h_t + b)           α = softmax(e) over the valid frames
        μ = Σ_t α_t h_t                     σ² = Σ_t α_t (h_t - μ)²
        output = [μ, sqrt(max(σ², VARIANCE_FLOOR))]

    Okabe et al. (Interspeech 2018), with tanh as the non-linearity and no bias on e, which the
    softmax would cancel. One attention weight per frame, shared by all D channels. Without the
    floor, a clip of one frame or of constant frames has σ = 0 and a NaN gradient.
    """

    def __init__(self, width: int, bottleneck: int = 128) -> None:
        """D, and the width of the attention's hidden layer; 128 is our choice."""
        super().__init__()
        self.hidden = nn.Linear(width, bottleneck)
        self.score = nn.Linear(bottleneck, 1, bias=False)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, D) and lengths (B,) to (B, 2 D) float32: means, then deviations."""
        frames, mask, _ = valid_frames(frames, lengths)
        with torch.autocast(frames.device.type, enabled=False):
            scores = self.score(torch.tanh(self.hidden(frames)))  # (B, T, 1)
            weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=1)
            # Sums over t as matrix products: α h for each frame would be one more (B, T, D), and
            # on a CPU the fresh memory of such arrays costs more than the sums.
            weights = weights.transpose(1, 2)  # (B, 1, T)
            mean = weights @ frames  # (B, 1, D)
            # The gradient through this mean is 2 Σ α (h - μ) = 0, so it need not be computed.
            deviation = frames - mean.detach()
            variance = weights @ (deviation * deviation)
            spread = variance.clamp(min=VARIANCE_FLOOR).sqrt()
            return torch.cat([mean, spread], dim=2).squeeze(1)
