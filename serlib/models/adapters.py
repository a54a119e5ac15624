"""How the transformer layers of an encoder are trained: by adapters, with less memory, compiled.

Each function changes an encoder of ``load_encoder`` in place.
"""

from __future__ import annotations

import torch

from serlib.models.encoders.checkpoints import EncoderError, Pretrained
from serlib.models.encoders.wavlm import GatedAttention

ADAPTED = ("q_proj", "v_proj", "query", "value")  # the latter two are RoBERTa's names
SCALE = 2  # alpha / rank


def apply(encoder: Pretrained, lora: int, checkpoint: bool, compiled: bool, seed: int) -> None:
    """Change an encoder as the settings of a recognizer say; 0 and False change nothing."""
    if lora:
        add_lora(encoder, lora, seed=seed)
    if checkpoint:
        checkpoint_layers(encoder)
    if compiled:
        compile_layers(encoder)


def add_lora(encoder: Pretrained, rank: int, *, seed: int = 0) -> None:
    """Freeze an encoder, and train a correction of low rank beside its projections instead.

    y = W x + b + s · B A x with A (rank, D) and B (D, rank), on the query's and the value's
    projection in the attention of every layer that ``freeze_layers`` leaves to train; which
    projections is the choice of Hu et al. 2022 (arXiv 2106.09685, section 4.2), s = 2 is ours. B
    starts from zero, so that nothing changes at first. 4 · D · rank numbers per layer are trained;
    gradients of the weights, and their optimizer states, fall away.

    Args:
        encoder: Its layers keep their names, but `q_proj.weight` becomes `q_proj.base_layer.weight`
            beside `q_proj.lora_A.default.weight`: the state of one with adapters is restored into
            one that has them too.
        rank: 1 or more.
        seed: Of A; torch's global state is left alone.

    Raises:
        EncoderError: The encoder is wholly frozen, has adapters already, or its attention is
            transformers' own of WavLM, which reads the projections' weights past any adapter.
    """
    import peft

    if rank < 1:
        raise EncoderError(f"LoRA of rank {rank}: take 1 or more.")
    if encoder.freeze == "all":
        raise EncoderError("LoRA trains inside an encoder, but freeze='all': take 'cnn'.")
    if encoder.lora:
        raise EncoderError(f"LoRA of rank {encoder.lora} is there already: load anew.")
    layers = encoder.stack
    if encoder.family == "wavlm" and not isinstance(layers[0].attention, GatedAttention):
        raise EncoderError("The stock attention ignores LoRA: load with attention='fused'.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in layers[encoder.freeze_layers :]:
            config = peft.LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=[*ADAPTED])
            peft.inject_adapter_in_model(config, layer)
    for name, parameter in encoder.model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    encoder.lora = rank


def checkpoint_layers(encoder: Pretrained) -> None:
    """Keep only the layers' inputs for the backward pass, which computes each layer once more.

    Gradients are the same, dropout included, whose random state is restored. For small GPUs: of a
    layer's many activations (B, T, D) one is left, and one layer's at a time, for about a third
    more computation (Chen et al. 2016, arXiv 1604.06174).
    """
    encoder.model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}  # else it loses WavLM's bias
    )


def compile_layers(encoder: Pretrained, backend: str = "inductor") -> None:
    """Compile the layers with torch.compile, on their first call; names and weights stay.

    Sizes B and T are symbols in it, so new ones compile nothing, and the layers, being alike, share
    what is compiled: one graph for each of training or not, padded or not, and B = 1 or more.
    """
    for layer in encoder.stack:
        layer.compile(backend=backend, dynamic=True)
