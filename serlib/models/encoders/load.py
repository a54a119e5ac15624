"""Pre-trained encoders behind one interface.

``load_encoder`` takes wav2vec 2.0, HuBERT and WavLM, Whisper, RoBERTa and BERT, which the modules
beside this one wrap. Each gives a clip the same frames alone and in any batch:

    prepare   one item, a wave (N,) or a text, to an array: what a batch is made of
    forward   waves (B, N) or token ids (B, S), and lengths (B,), to ``Encoded``
"""

from __future__ import annotations

import json
import secrets
import shlex
from pathlib import Path

import torch

from serlib import records
from serlib.models.encoders import wavlm
from serlib.models.encoders.bert import TextEncoder
from serlib.models.encoders.checkpoints import (
    CONFIG,
    DEMO,
    EXTRACTOR,
    FAMILIES,
    INDEX,
    PROCESSOR,
    TEXT,
    TOKENIZER,
    WEIGHTS,
    EncoderError,
    read_json,
)
from serlib.models.encoders.wav2vec2 import Encoder
from serlib.models.encoders.whisper import WhisperEncoder


def load_encoder(
    name: str | Path,
    *,
    masked_group_norm: bool = True,
    attention: str = "fused",
    context: str = "full",
    freeze: str = "cnn",
    freeze_layers: int = 0,
    dropout: float | None = None,
    spec_augment: float = 0.0,
    random_init: bool = False,
    seed: int = 0,
    n_layers: int | None = None,
) -> Encoder | WhisperEncoder | TextEncoder:
    """Load an encoder, in float32 and evaluation mode.

    Args:
        name: Shipped ("demo-wavlm"), a folder, or on the hub ("microsoft/wavlm-large").
        masked_group_norm: False lets padding into a clip's features, as the stock wav2vec 2.0,
            HuBERT and WavLM do.
        attention: "fused" replaces WavLM's attention by that of `wavlm`, the same but faster and
            open to adapters; "stock" keeps it.
        context: What Whisper sees: the "full" one, zeros after the clip included, as in its
            training; or the "short" one, the clip alone, our variant: cheaper, another result.
        freeze: What is not trained: the "cnn" (as in the papers; Whisper's are its two
            convolutions, a text encoder has none), "all" or "none".
        freeze_layers: With "cnn", so many of the lowest transformer layers are not trained either,
            nor what is below them. Of speech, and without SpecAugment, which would change what they
            see.
        dropout: Replaces all of the checkpoint's rates; None keeps them.
        spec_augment: Share of frames hidden in training, in spans (drawn from numpy's RNG). The
            checkpoint sets the spans' length and their least number: as a rule 2 of 10 frames,
            which hide 0.4 s of every clip however small the share. In Whisper, as in its stock
            model, it hides frames of the spectrogram, half as long. Not for text.
        random_init: Load the architecture only and draw the weights.
        seed: Decides weights that are drawn; torch's global state is left alone.
        n_layers: Keep the first layers only. A final LayerNorm stays.

    Raises:
        EncoderError: Not found, files missing or damaged, unsupported model or option.
    """
    if freeze not in ("cnn", "all", "none"):
        raise EncoderError(f"freeze={freeze!r}: choose cnn, all or none.")
    if context not in ("full", "short"):
        raise EncoderError(f"context={context!r}: choose full or short.")
    if attention not in wavlm.ATTENTIONS:
        raise EncoderError(f"attention={attention!r}: choose fused or stock.")
    folder = locate(name, weights=not random_init)
    config = read_config(folder)
    kind = {"whisper": WhisperEncoder, **dict.fromkeys(TEXT, TextEncoder)}
    kind = kind.get(config.model_type, Encoder)
    some = {  # options of some families: as asked, what all families do, and whose it is
        "masked_group_norm": (masked_group_norm, True, "wave models"),
        "attention": (attention, "fused", "WavLM"),
        "context": (context, "full", "Whisper"),
        "spec_augment": (spec_augment, 0, "speech"),
        "freeze_layers": (freeze_layers, 0, "speech"),
    }
    for option, (asked, neutral, family) in some.items():
        of_another = option == "attention" and config.model_type != "wavlm"
        if asked != neutral and (of_another or option not in kind.OPTIONS):
            what = f"{option}={asked!r} is for {family}"
            raise EncoderError(f"{what}, and {name} is {config.model_type}: drop it.")
    own = {option: some[option][0] for option in kind.OPTIONS}
    if n_layers is not None and not 1 <= n_layers <= config.num_hidden_layers:
        raise EncoderError(f"n_layers={n_layers}: {name} has {config.num_hidden_layers}.")
    config.num_hidden_layers = n_layers or config.num_hidden_layers
    if freeze == "cnn" and freeze_layers:
        _check_freeze(freeze_layers, config.num_hidden_layers, spec_augment)
    config.update({} if dropout is None else dict.fromkeys(kind.DROPOUTS, float(dropout)))
    if "spec_augment" in own:
        del own["spec_augment"]  # lies in the configuration
        config.update({"layerdrop": 0.0, "apply_spec_augment": spec_augment > 0})
        config.update({"mask_time_prob": float(spec_augment), "mask_feature_prob": 0.0})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return kind.build(config, folder, weights=not random_init, freeze=freeze, **own)


def _check_freeze(layers: int, of: int, spec_augment: float) -> None:
    """Refuse what ``freeze_layers`` cannot mean."""
    if not 0 < layers < of:
        raise EncoderError(f"freeze_layers={layers} of {of}: leave one, or choose freeze='all'.")
    if spec_augment:
        raise EncoderError(
            f"spec_augment={spec_augment} with freeze_layers={layers}: it hides frames before the "
            "frozen layers, whose output is stored. Set one of them to 0."
        )


def locate(name: str | Path, *, weights: bool = True) -> Path:
    """Folder: shipped, else ``name`` itself, else $SERLIB_HOME/encoders/<name>, else the hub's."""
    from huggingface_hub import snapshot_download

    source, target = name, records.home() / "encoders" / name
    folder = next((f for f in (DEMO / name, Path(name), target) if f.is_dir()), None)
    if here := folder is not None:  # a command must not write where it reads
        source, target = folder, folder.with_name(f"{folder.resolve().name}-{secrets.token_hex(2)}")
    else:
        wanted = [CONFIG, EXTRACTOR, PROCESSOR, TOKENIZER, "tokenizer_config.json"]
        wanted += (*WEIGHTS, INDEX) if weights else ()
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=wanted))
        except Exception as error:  # offline, unknown, gated, not a name at all: one fix for all
            shipped = ", ".join(sorted(f.name for f in DEMO.glob("*-*")))
            reason = f"not shipped ({shipped}), no folder, no answer from the hub"
            fix = _fix(source, target, "", weights)
            raise EncoderError(f"{name}: {reason} ({type(error).__name__}). {fix}") from error
    family = _family(folder) if (folder / CONFIG).is_file() else ""
    if missing := _missing(folder, family, weights):
        made = {WEIGHTS[0]: "pytorch_model*.bin", TOKENIZER: "merges.txt"}  # of what the rest is
        if here and not all(file in made and any(folder.glob(made[file])) for file in missing):
            fix = "Copy what is missing from where the folder came from."
        else:
            fix = _fix(source, target, family, weights)
        raise EncoderError(f"{name}: {folder} lacks {', '.join(missing)}. {fix}")
    return folder


def _missing(folder: Path, family: str | None, weights: bool) -> list[str]:
    """Files that a folder lacks; of an unknown family `read_config` has a better word to say."""
    found = [] if (folder / CONFIG).is_file() else [CONFIG]
    if family not in ("", *FAMILIES):
        return found
    about = TOKENIZER if family in TEXT else EXTRACTOR
    inside = about == EXTRACTOR and "feature_extractor" in read_json(folder, PROCESSOR)
    found += [] if inside or (folder / about).is_file() else [about]
    if not weights or (folder / WEIGHTS[0]).is_file():
        return found
    shards = {path.name for path in folder.glob(WEIGHTS[1])}
    told = read_json(folder, INDEX).get("weight_map")
    told = {*map(str, told.values())} if isinstance(told, dict) else set()
    return found + (sorted(told - shards) if shards | told else [WEIGHTS[0]])


def family(name: str | Path) -> str | None:
    """An encoder's model type, such as "whisper"; for errors see ``locate``."""
    return _family(locate(name, weights=False))


def _family(folder: Path) -> str | None:
    return read_json(folder, CONFIG).get("model_type")


def _fix(source: str | Path, target: Path, family: str | None, weights: bool) -> str:
    """What to put into a folder, and a command that does it where there is a network."""
    kind, about = "AutoFeatureExtractor", EXTRACTOR
    if family in TEXT:
        kind, about = "AutoTokenizer", TOKENIZER
    elif not family:
        about += f" (text: {TOKENIZER}, and AutoTokenizer below)"
    files = ", ".join([CONFIG, about, *WEIGHTS[: int(weights)]])
    code = (
        f"from transformers import AutoModel as M, {kind} as E; "
        f"s, t = {json.dumps([str(source), str(target)])}; "
        "M.from_pretrained(s).save_pretrained(t); E.from_pretrained(s).save_pretrained(t)"
    )
    return (
        f"Fill {target} with {files}, and name that. Where there is a network, or from a "
        f"pytorch_model.bin that you trust:\npython -c {shlex.quote(code)}"
    )


def read_config(folder: Path):
    """The checkpoint's transformers configuration, of one of `FAMILIES`."""
    from transformers import AutoConfig

    if (family := _family(folder)) not in FAMILIES:
        raise EncoderError(f"{folder}: {family!r} is not supported; serlib runs {FAMILIES}.")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers checks types with errors of its own
        raise EncoderError(f"{folder}: {CONFIG} unusable ({error}). Fetch it again.") from error
