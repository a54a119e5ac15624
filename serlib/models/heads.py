"""From frames to answers: the sum over layers, and the classifiers of the tasks.

Shapes: B batch, T frames, D width, H hidden width, L layers, C classes, V characters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name every torch user expects)
from torch import Tensor, nn

from serlib.settings import SettingError


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse no task and one that is there twice; the emotion comes first, if at all."""
    if not tasks or len(set(tasks)) < len(tasks):
        raise SettingError(f"tasks={tasks}, expected one or more, each once")
    if "emotion" in tasks[1:]:
        raise SettingError(f"tasks={tasks}: the emotion comes first")


class LayerSum(nn.Module):
    """Learned weighted sum of an encoder's layers: Σ_l s_l h_l, s = softmax(w).

    Peters et al. (NAACL 2018, ELMo), eq. 1 without its scale γ, as SUPERB uses it (Yang et al.,
    Interspeech 2021). w starts at zero, so that training starts from the plain average.
    """

    STARTS = ("equal", "last", "first")

    def __init__(
        self,
        n_layers: int,
        *,
        softmax: bool = True,
        layer_norm: bool = False,
        start: str = "equal",
        speed: float = 1.0,
    ) -> None:
        """Set the weights that learning starts from.

        Args:
            n_layers: how many will be given; an encoder of n transformer layers gives n + 1.
            softmax: False uses s = w directly: weights may become negative.
            layer_norm: first normalize every frame of every layer to zero mean and unit variance,
                so that the weights compare layers of equal size.
            start: "equal": 1 / L each. "last" or "first": 0.9 for that layer, the others share the
                rest; how far the end depends on the beginning tells how far it was learned.
            speed: Factor on every move of w. Under Adam, whose steps do not depend on the size of
                the gradient, a factor on the learning rate of w alone; 0 keeps it where it starts.
        """
        super().__init__()
        if start not in self.STARTS:
            raise ValueError(f"start={start!r}: choose equal, last or first")
        self.softmax, self.layer_norm, self.speed = softmax, layer_norm, speed
        share = torch.full((n_layers,), 1 / n_layers)
        if start != "equal" and n_layers > 1:
            share[:] = 0.1 / (n_layers - 1)
            share[-1 if start == "last" else 0] = 0.9
        self.raw = nn.Parameter(share.log() - share.log().mean() if softmax else share)
        self.register_buffer("start", self.raw.detach().clone(), persistent=False)

    @property
    def weights(self) -> Tensor:
        """The weights s (L,), differentiable."""
        w = self.raw
        if self.speed != 1:
            w = self.start + self.speed * (w - self.start)
        return w.softmax(dim=0) if self.softmax else w

    def forward(self, layers: Tensor | Sequence[Tensor]) -> Tensor:
        """Layers (L, B, T, D), a tensor or L tensors (B, T, D), to (B, T, D) float32.

        Raises:
            ValueError: not L layers; LayerDrop, for one, shortens the list.
        """
        if len(layers) != len(self.raw):
            raise ValueError(
                f"{len(layers)} layers for {len(self.raw)} weights: load the encoder with "
                "layerdrop=0 and give LayerSum one weight per returned layer"
            )
        total = torch.zeros((), device=self.raw.device)
        for weight, layer in zip(self.weights, layers, strict=True):
            if self.layer_norm:
                layer = F.layer_norm(layer, layer.shape[-1:])
            total = total + (weight * layer).float()  # added up in float32, layer by layer
        return total


def scaled_sigmoid(x: Tensor, low: float = 1.0, high: float = 7.0) -> Tensor:
    """A number between two ends: low + (high - low) σ(x), in float32.

    The attributes' output in Zgórzyński et al. (2025), whose scale runs from 1 to 7. It can come
    near the ends and not pass them; there its slope vanishes, (high - low) σ(x) (1 - σ(x)).

    >>> scaled_sigmoid(torch.tensor([-100.0, 0.0, 100.0])).tolist()
    [1.0, 4.0, 7.0]
    """
    return low + (high - low) * x.float().sigmoid()


class LinearHead(nn.Linear):
    """One linear layer, with nothing before it: (..., D) to logits (..., C)."""

    def hidden(self, x: Tensor) -> Tensor:
        """What the last linear layer takes: x itself."""
        return x

    def output(self, hidden: Tensor) -> Tensor:
        """The last linear layer: (..., D) to logits (..., C)."""
        return self(hidden)


class Head(nn.Sequential):
    """Layers, the last of them linear: (..., D) to logits (..., C)."""

    def hidden(self, x: Tensor) -> Tensor:
        """All layers but the last: (..., D) to (..., H)."""
        for layer in list(self)[:-1]:
            x = layer(x)
        return x

    def output(self, hidden: Tensor) -> Tensor:
        """The last linear layer: (..., H) to logits (..., C)."""
        return self[-1](hidden)


class MLPHead(Head):
    """Dropout, Linear, LayerNorm, ReLU, Dropout, Linear: (B, D) to logits (B, C).

    The head of the Interspeech 2025 challenge baseline (Naini et al.: hidden 1024, dropout 0.5, and
    0.5 on its input as well), and the two-layer branch of Wang et al. (2025), who give no sizes and
    whose second layer we leave without norm and activation, since it gives the logits.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        n_classes: int,
        dropout: float = 0.5,
        *,
        input_dropout: float = 0.0,
    ) -> None:
        """D, H and C, and the probabilities that training zeroes a hidden unit or an input."""
        super().__init__(
            nn.Dropout(input_dropout),
            nn.Linear(width, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_classes),
        )


class RecurrentHead(nn.Module):
    """An LSTM over the frames, then an MLPHead at each: (B, T, D) to logits (B, T, V).

    The branch for speech recognition in Wang et al. (2025, section 2.2), where neither the size nor
    the direction of the LSTM is given. Ours has one layer of H units and runs forward, so that
    padding behind a clip cannot reach its frames.
    """

    def __init__(self, width: int, hidden: int, n_characters: int, dropout: float = 0.1) -> None:
        """D, H, V, and the dropout of the hidden layer."""
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.mlp = MLPHead(hidden, hidden, n_characters, dropout)

    def hidden(self, frames: Tensor) -> Tensor:
        """All but the last linear layer: (B, T, D) to (B, T, H)."""
        return self.mlp.hidden(self.lstm(frames)[0])

    def output(self, hidden: Tensor) -> Tensor:
        """The last linear layer: (B, T, H) to logits (B, T, V)."""
        return self.mlp.output(hidden)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, T, D) to logits (B, T, V)."""
        return self.output(self.hidden(frames))
