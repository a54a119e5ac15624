"""WavLM's attention with torch's fused kernel; the same numbers as the stock module's.

WavLM adds to the attention scores of every layer a position bias, which all layers share, times a
gate, which each layer computes from its input (Chen et al. 2022, arXiv 2110.13900, section III-B):

    scores[b, h, q, k] = query · key / √(D / H) + gate[b, h, q] · bias[h, q, k]

The stock module repeats the bias over the batch, returns the attention weights, and reads the
projections' weights without calling the projections, so that adapters put onto them do nothing.
Here the bias stays (H, T, T), no weights are returned, and the projections are called. On a GPU
the fused kernels take a bias whose keys lie side by side in memory and whose rows begin at a
multiple of `ALIGNED` numbers; of any other torch makes a copy, or falls back to plain products. So
the bias has rows of so many keys, and the last few of them are cut off as a view.

Memory: the gate leaves one tensor (B, H, T, T) per layer, which the fused kernel takes and the
backward pass keeps. For WavLM-large (H = 16), 32 clips of 5.8 s (T = 289) and bfloat16 these are
86 MB, 2.1 GB in 24 layers; the bias itself is 5 MB in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

ATTENTIONS = ("fused", "stock")
ALIGNED = 8  # numbers in 16 bytes of bfloat16


class GatedAttention(nn.Module):
    """The stock attention's parameters, under the same names, with another ``forward``."""

    def __init__(self, stock: nn.Module) -> None:
        """Take over the parts of a transformers ``WavLMAttention``."""
        super().__init__()
        self.n_heads, self.dropout = stock.num_heads, stock.dropout
        self.k_proj, self.v_proj = stock.k_proj, stock.v_proj
        self.q_proj, self.out_proj = stock.q_proj, stock.out_proj
        self.gru_rel_pos_const = stock.gru_rel_pos_const
        self.gru_rel_pos_linear = stock.gru_rel_pos_linear
        if hasattr(stock, "rel_attn_embed"):  # the first layer's, which all layers use
            self.rel_attn_embed, self.max_distance = stock.rel_attn_embed, stock.max_distance
        self.train(stock.training)  # a module made now would be in training mode

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor, None, Tensor]:
        """Attend; called by the stock layer, hence the names and the three results.

        Args:
            hidden_states: x (B, T, D).
            attention_mask: (B, T) bool, the valid frames, at least one per clip; None if all are.
            position_bias: Of `position_bias`; None is for the first layer, which has it.

        Returns:
            Output (B, T, D); no weights; the position bias.
        """
        x, shape = hidden_states, (*hidden_states.shape[:2], self.n_heads, -1)
        if position_bias is None:
            position_bias = self.compute_bias(x.shape[1])
        projections = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (proj(x).view(shape).transpose(1, 2) for proj in projections)  # (B, H, T, D / H)
        bias = self.gate(x).to(q.dtype), position_bias.to(q.dtype)
        if attention_mask is None:
            bias = bias[0] * bias[1]
        else:  # one pass instead of a product and a copy of it with the padding masked
            valid = functional.pad(attention_mask, (0, position_bias.shape[-1] - x.shape[1]))
            padded = ~valid[:, None, None].bool()  # (B, 1, 1, T and more): these keys
            masked = torch.zeros_like(padded, dtype=q.dtype).masked_fill(padded, float("-inf"))
            bias = torch.addcmul(masked, *bias)
        bias = bias[..., : x.shape[1]]
        dropout = self.dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2)), None, position_bias

    def gate(self, x: Tensor) -> Tensor:
        """Gate (B, H, T, 1) of the bias in 1 to 2 + const: 2 + a (b · const - 1), a and b sigmoids.

        Each is of a sum of four linear maps of the head's share of x (B, T, D), as in the paper's
        code.
        """
        x = self.gru_rel_pos_linear(x.unflatten(-1, (self.n_heads, -1)))  # (B, T, H, 8)
        a, b = x.unflatten(-1, (2, 4)).sum(-1).sigmoid().transpose(1, 2).chunk(2, -1)
        return a * (b * self.gru_rel_pos_const - 1) + 2

    def compute_bias(self, n_frames: int) -> Tensor:
        """Position bias (H, T, T'); T' is T, on a GPU the next multiple of `ALIGNED`.

        Only the distance k - q counts, so T + T' - 1 lookups do.
        """
        weight = self.rel_attn_embed.weight
        n_keys = -(-n_frames // ALIGNED) * ALIGNED if weight.is_cuda else n_frames
        distances = torch.arange(1 - n_frames, n_keys, device=weight.device)
        table = self.rel_attn_embed(buckets(distances, len(weight), self.max_distance))
        rows = table.T.unfold(1, n_keys, 1).flip(1)  # row q: distances -q to T' - 1 - q
        return rows.contiguous()


def buckets(distances: Tensor, n_buckets: int, max_distance: int) -> Tensor:
    """Rows of the bias's table for distances k - q, in frames; as in T5, and exact to stock.

    Half of the rows are for each direction. The first half of these are for one distance each; the
    others widen logarithmically up to ``max_distance``, and the last takes all that are farther.

    >>> buckets(torch.tensor([-100, -9, -1, 0, 1, 9, 100]), 16, 64).tolist()
    [7, 5, 1, 0, 9, 13, 15]
    """
    half, near, d = n_buckets // 2, n_buckets // 4, distances.abs()
    far = torch.log(d.clamp(min=1).float() / near) / math.log(max_distance / near) * (half - near)
    far = (near + far).long().clamp(max=half - 1)
    return torch.where(d < near, d, far) + (distances > 0) * half


def install(layers: Sequence[nn.Module]) -> None:
    """Put `GatedAttention` into the layers of a WavLM; the state's names and values stay."""
    for layer in layers:
        layer.attention = GatedAttention(layer.attention)


def position_bias(layers: Sequence[nn.Module], n_frames: int, n_clips: int = 1) -> Tensor:
    """The position bias that all layers share, from the first one's table: see `compute_bias`.

    For stock layers (B · H, T, T), as they take it, with B = ``n_clips``.
    """
    first = layers[0].attention
    if isinstance(first, GatedAttention):
        return first.compute_bias(n_frames)
    return first.compute_bias(n_frames, n_frames).repeat(n_clips, 1, 1)
