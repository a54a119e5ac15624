"""From frames to one vector per clip: scaling, and pooling over time.

Shapes: B batch, T frames, D width. `lengths` (B,) int64 counts the valid frames of each clip; the
others are padding, and whatever they hold, NaN included, changes neither the result nor a gradient.
Pooling runs in float32 even under autocast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from serlib.data.batching import Batch
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


class Standardize(nn.Module):
    """Each dimension d of each state k on one scale: y = (x - μ_kd) / σ_kd, in float32.

    μ and σ are mean and standard deviation over train: of all valid frames x or, ``of_clips``, of
    each clip's mean of them, as the probe of `experiments.floors` has it. The choice goes by the
    pooling, so that what it gives has about unit variance: the mean over a clip varies several
    times less than frames do, and frames scaled by it would saturate the tanh of an attention. The
    scaling commutes with a mean over time. A dimension without variance is only centered.
    μ and σ are buffers: `standardize` sets them, and they are stored with the model.
    """

    def __init__(self, n_states: int, width: int, *, of_clips: bool) -> None:
        """K and D; as it is made it changes nothing."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_states, width))
        self.register_buffer("std", torch.ones(n_states, width))
        self.of_clips = of_clips
        self.sums: Tensor | None = None  # (3, K, D), n, Σ x and Σ x², while `standardize` gathers

    def forward(self, states: Sequence[Tensor], lengths: Tensor) -> list[Tensor]:
        """K states (B, T, D) and lengths (B,) to K scaled ones, float32."""
        if len(states) != len(self.mean):
            raise ValueError(f"{len(states)} states for {len(self.mean)} scales")
        if self.sums is not None:
            self.sums += torch.stack([self._moments(x, lengths) for x in states], 1)
        scales = zip(states, self.mean, self.std, strict=True)
        return [(state.float() - mean) / std for state, mean, std in scales]

    def _moments(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """n, Σ x and Σ x² (3, D) of a batch, in float64: huge means must not hide a variance."""
        x, _, lengths = valid_frames(frames, lengths)  # zeros for padding
        n, x = lengths.sum(), x.double()
        if self.of_clips:
            n, x = len(x), x.sum(1, keepdim=True) / lengths[:, None, None]
        return torch.stack([x.new_ones(x.shape[-1]) * n, x.sum((0, 1)), (x * x).sum((0, 1))])

    def settle(self) -> None:
        """Set μ and σ from what was gathered."""
        n, total, squares = self.sums
        mean = total / n
        std = (squares / n - mean * mean).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        # What is this small against the mean is rounding of equal numbers.
        self.std.copy_(std.where(std > 1e-6 * mean.abs() + 1e-8, 1))


@torch.no_grad()
def standardize(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Set μ and σ of every `Standardize` in a model.

    Args:
        model: Maps batches; ends in the mode that it was in.
        batches: Each utterance of train once; how they are batched decides nothing.
    """
    parts = [module for module in model.modules() if isinstance(module, Standardize)]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for part in parts:
            part.sums = part.mean.new_zeros(3, *part.mean.shape, dtype=torch.float64)
        for batch in batches:
            model(batch.to(parts[0].mean.device))
        for part in parts:
            part.settle()
    finally:
        for part in parts:
            part.sums = None
        for module in training:
            module.training = True


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
