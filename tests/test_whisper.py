from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from encoder_toys import clips_of, company_error, make_whisper, offered, pad, states, whisper_config
from serlib.data import features
from serlib.data.stores import WaveStore
from serlib.models.encoders import checkpoints
from serlib.models.encoders.load import load_encoder
from serlib.models.encoders.whisper import log_mel

CONTEXTS = ("full", "short")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper")
    make_whisper(path)
    return path


@pytest.fixture(scope="module")
def stock(folder):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder.from_pretrained(folder).eval()


def extractor_of(folder):
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor.from_pretrained(folder)


def stock_states(stock, mels) -> torch.Tensor:
    """(L + 2, B, T, D) of the stock encoder, the last layer before the LayerNorm, then the output.

    Read by hooks: the stock list of hidden states has the normalized one in its last place.
    """
    seen = []
    hooks = [stock.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))]
    hooks += [
        layer.register_forward_hook(lambda module, args, output: seen.append(output))
        for layer in stock.layers
    ]
    with torch.no_grad():
        seen.append(stock(mels).last_hidden_state)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_is_that_of_the_stock_extractor(n_mels):
    """Of both of its implementations; quiet, loud, clicks, silence."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(n_mels, chunk_length=2)
    waves = [*clips_of((9_000, 32_000, 31_999, 1)), np.zeros(500, np.float32)]
    waves += [1e-4 * clips_of((16_000,))[0], np.eye(1, 700, 350, dtype=np.float32)[0]]
    theirs = extractor(waves, sampling_rate=16_000, return_tensors="pt").input_features
    padded = torch.stack([torch.from_numpy(np.pad(w, (0, 32_000 - len(w)))) for w in waves])
    filters = torch.as_tensor(extractor.mel_filters, dtype=torch.float32)
    ours = log_mel(padded, filters, 400, 160)
    assert ours.shape == (len(waves), n_mels, 200)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    slow = extractor._np_extract_fbank_features(padded.numpy(), "cpu")
    np.testing.assert_allclose(ours, slow, rtol=0, atol=2e-4)  # other rounding, 8 decades down
    for i, wave in enumerate(padded):  # the cut belongs to the clip, not to the batch
        torch.testing.assert_close(log_mel(wave[None], filters, 400, 160)[0], ours[i])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_mel(padded, filters, 400, 160), ours)


def test_log_mel_by_hand():
    """Silence is (log10 1e-10 + 4) / 4; and the range below the loudest bin is 8 decades: 2."""
    filters = torch.eye(201)
    assert log_mel(torch.zeros(1, 1_600), filters, 400, 160).unique().tolist() == [-1.5]
    tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(16_000) / 16_000)
    x = log_mel(tone[None], filters, 400, 160)
    # a Hann window of 400 samples gives a tone of amplitude 1 the magnitude 100 in its bin
    assert x.max().item() == pytest.approx((4 + 4) / 4, abs=1e-3)
    assert x[0, :, 50].argmax() == 25  # 1,000 Hz of 40 Hz a bin
    assert (x.max() - x.min()).item() == pytest.approx(2, abs=1e-5)


def test_full_context_gives_what_the_stock_encoder_gives(folder, stock):
    encoder = load_encoder(folder)
    lengths = (20_000, 32_000, 320, 321, 1)
    clips = clips_of(lengths)
    mels = extractor_of(folder)(clips, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        ours = encoder(*pad([encoder.prepare(clip) for clip in clips]))
    theirs = stock_states(stock, mels)
    assert ours.lengths.tolist() == [63, 100, 1, 2, 1]  # ceil(50 times the seconds)
    assert ours.lengths.tolist() == encoder.frame_lengths(torch.tensor(lengths)).tolist()
    assert len(ours.layers) == encoder.n_layers + 1 == 4
    for i, n in enumerate(ours.lengths.tolist()):
        torch.testing.assert_close(states(ours)[:, i, :n], theirs[:, i, :n], rtol=0, atol=1e-5)
        assert not states(ours)[:, i, n:].any()
    assert torch.equal(ours.frames[1], stock.layer_norm(ours.layers[-1][1]))


def test_short_context_is_the_stock_encoder_with_fewer_positions(folder):
    """Which transformers only takes as another model, with its table of positions cut."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encoder = load_encoder(folder, context="short")
    clips = clips_of((20_000, 32_000, 300))
    with torch.no_grad():
        ours = encoder(*pad(clips))
    for i, (clip, n) in enumerate(zip(clips, (63, 100, 1), strict=True)):
        cut = WhisperEncoder(whisper_config(max_source_positions=n)).eval()
        weights = dict(encoder.model.state_dict())
        weights["embed_positions.weight"] = weights["embed_positions.weight"][:n]
        cut.load_state_dict(weights)
        mels = extractor_of(folder)(
            clip, sampling_rate=16_000, return_tensors="pt", max_length=320 * n
        ).input_features
        theirs = stock_states(cut, mels)[:, 0]
        torch.testing.assert_close(states(ours)[:, i, :n], theirs, rtol=0, atol=1e-5)


def test_contexts_agree_on_a_full_window_and_on_no_other(folder):
    full, short = (load_encoder(folder, context=context) for context in CONTEXTS)
    whole = pad(clips_of((32_000, 64_000)))
    torch.testing.assert_close(states(full(*whole)), states(short(*whole)), rtol=0, atol=1e-6)
    part = pad(clips_of((16_000,)))
    assert (states(full(*part)) - states(short(*part))).abs().max() > 0.01
    assert (full.facts["context"], short.facts["context"]) == CONTEXTS


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("lengths", [(9_000, 70_000, 400, 32_001), (5_000, 5_001), (1, 64_000)])
def test_a_clip_has_the_same_frames_alone_and_in_any_batch(folder, context, lengths):
    encoder = load_encoder(folder, context=context)
    assert company_error(encoder, clips_of(lengths)) <= 1e-5
    assert company_error(encoder.double(), clips_of(lengths)) <= 1e-6  # log_mel is in float32


@pytest.mark.parametrize("context", CONTEXTS)
def test_nothing_in_the_padding_matters_and_padded_frames_are_zero(folder, context):
    encoder = load_encoder(folder, context=context, freeze="none")
    clips = clips_of((6_000, 40_000, 900))
    clean = encoder(*pad(clips))
    for fill in (1.0, -1e30, float("nan")):
        dirty = encoder(*pad(clips, fill=fill))
        assert torch.equal(states(clean), states(dirty))
    valid = torch.arange(clean.frames.shape[1]) < clean.lengths[:, None]
    assert clean.frames.shape[1] == 125 and not states(clean)[:, ~valid].any()
    waves, lengths = pad(clips, fill=float("inf"))
    wider = encoder(nn.functional.pad(waves, (0, 90_000), value=torch.nan), lengths)
    assert torch.equal(states(wider), states(clean))
    dirty.frames.square().sum().backward()
    grads = [p.grad for p in encoder.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in grads)


@pytest.mark.parametrize("sizes", [(12_000, 3_000, 100), (71_000, 9_000, 40_000)])
def test_frozen_lower_layers_can_be_stored(folder, sizes):
    """Also of clips longer than the context, whose windows the upper layers keep apart."""
    encoder = load_encoder(folder, context="short", freeze_layers=2, dropout=0.5).train()
    below = ("conv", "embed_positions", "layers.0.", "layers.1.")
    for name, parameter in encoder.model.named_parameters():
        assert parameter.requires_grad is not name.startswith(below), name
    clips = clips_of(sizes)
    inputs, lengths = pad(clips)
    first, again = encoder(inputs, lengths), encoder(inputs, lengths)
    for layer in range(3):  # no dropout below
        assert torch.equal(first.layers[layer], again.layers[layer])
    assert not torch.equal(first.frames, again.frames)

    encoder.eval()
    whole = encoder(inputs, lengths)
    known = torch.full((*whole.frames.shape[:2], 3, encoder.width), torch.nan)
    for i, clip in enumerate(clips):  # each stored alone; what pads them cannot matter
        alone = encoder(*pad([clip]))
        known[i, : alone.frames.shape[1]] = torch.stack(alone.layers[:3], 2)[0].detach()
    found = encoder(known, whole.lengths)
    torch.testing.assert_close(states(found), states(whole), rtol=0, atol=1e-5)
    grads = []
    for encoded in (found, whole):
        encoder.zero_grad()
        encoded.frames.square().sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(grads[0]) == sum(p.requires_grad for p in encoder.parameters())
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3)


def test_frozen_lower_layers_are_those_of_the_full_context_too(folder):
    """From waves: above them, layers see the zeros after a clip, which no store holds."""
    encoder, stock = (load_encoder(folder, freeze_layers=k) for k in (2, 0))
    batch = pad(clips_of((12_000, 3_000)))
    assert torch.equal(states(encoder(*batch)), states(stock(*batch)))
    encoder(*batch).frames.square().sum().backward()
    assert encoder.model.layers[1].fc1.weight.grad is None
    assert encoder.model.layers[2].fc1.weight.grad.any()
    with pytest.raises(ValueError, match="context='full'"):
        encoder(torch.zeros(1, 5, 3, 24), torch.tensor([5]))
    for wrong in (-1, 3):
        with pytest.raises(checkpoints.EncoderError, match="leave one"):
            load_encoder(folder, freeze_layers=wrong)
    with pytest.raises(checkpoints.EncoderError, match="Set one of them to 0"):
        load_encoder(folder, freeze_layers=1, spec_augment=0.1)


def test_digest_of_the_frozen_layers_is_blind_to_those_above(folder):
    encoder = load_encoder(folder, context="short", freeze_layers=2)
    lower = encoder.digest("lower")
    parts = {"layers.2.fc1.bias": False, "layers.1.fc1.bias": True, "conv1.bias": True}
    for name, changes in parts.items():
        tuned = copy.deepcopy(encoder)
        with torch.no_grad():
            tuned.model.get_parameter(name)[0] += 1e-3
        assert (tuned.digest("lower") != lower) is changes
    assert load_encoder(folder, freeze_layers=2).digest("lower") != lower


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_long_clip_is_encoded_window_by_window(folder, context):
    encoder = load_encoder(folder, context=context)
    (wave,) = clips_of((71_000,))
    with torch.no_grad():
        whole = encoder(*pad([wave]))
        parts = [encoder(*pad([wave[i : i + 32_000]])) for i in (0, 32_000, 64_000)]
    assert whole.lengths.tolist() == [222] == [sum(int(p.lengths) for p in parts)]
    joined = torch.cat([states(part) for part in parts], 2)
    torch.testing.assert_close(states(whole), joined, rtol=0, atol=1e-5)


def test_freezing(folder):
    batch = pad(clips_of((12_000, 3_000)))
    for freeze in ("none", "cnn", "all"):
        encoder = load_encoder(folder, freeze=freeze, dropout=0.5).train()
        trained = {n.split(".")[1] for n, p in encoder.named_parameters() if p.requires_grad}
        expected = {"none": {"conv1", "conv2", "layers", "layer_norm"}, "all": set()}
        assert trained == expected.get(freeze, {"layers", "layer_norm"})
        one, two = encoder(*batch), encoder(*batch)
        assert torch.equal(states(one), states(two)) is (freeze == "all")
        assert one.frames.requires_grad is (freeze != "all")
        if freeze != "all":
            one.frames.square().sum().backward()
            for name, p in encoder.named_parameters():
                assert (p.grad is not None) is p.requires_grad, name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_hidden_states_in_training_with_layerdrop_and_checkpointing(folder, checkpointing):
    encoder = load_encoder(folder, context="short")
    batch = pad(clips_of((8_000, 2_000)))
    expected = states(encoder(*batch))
    if checkpointing:
        encoder.model.activation_checkpointing_enable()
    encoder.train()
    for _ in range(4):  # the checkpoint's config drops half of the layers
        encoded = encoder(*batch)
        assert torch.allclose(states(encoded), expected, atol=1e-6)
    sum(layer.square().sum() for layer in encoded.layers).backward()
    first = encoder.model.layers[0].fc1.weight.grad
    assert first.isfinite().all() and first.any()


@pytest.mark.parametrize("context", CONTEXTS)
def test_spec_augment_hides_columns_of_the_clips_in_training_only(tmp_path, context):
    make_whisper(tmp_path, whisper_config(mask_time_length=8))
    plain = load_encoder(tmp_path, context=context)
    hiding = load_encoder(tmp_path, context=context, spec_augment=0.5)
    batch = pad(clips_of((32_000, 8_000)))
    assert torch.equal(states(plain.train()(*batch)), states(plain.eval()(*batch)))
    assert torch.equal(states(hiding(*batch)), states(plain(*batch)))
    hiding.train()
    np.random.seed(0)
    assert (states(hiding(*batch)) - states(plain(*batch))).abs().max() > 0.01
    mels, n = torch.ones(2, 20, 200), torch.tensor([200, 50])
    hidden = hiding._augment(mels, n)[:, 0] == 0
    assert 0.2 < hidden[0].float().mean() <= 0.5 and hidden[1].any()
    assert not hidden[1, 50:].any()  # spans are the clip's own
    hiding(*pad([np.ones(400, np.float32)]))  # shorter than a span


def test_a_complete_whisper_loads_and_its_decoder_is_not_read(tmp_path, monkeypatch):
    import safetensors

    whole = make_whisper(tmp_path, whole=True)
    read, original = [], safetensors.safe_open

    class Spying:
        def __init__(self, *args, **kwargs):
            self.file = original(*args, **kwargs)

        def __enter__(self):
            self.file = self.file.__enter__()
            return self

        def __exit__(self, *args):
            return None

        def keys(self):
            return self.file.keys()

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Spying)
    encoder = load_encoder(tmp_path)
    assert read and not [name for name in read if "decoder" in name]
    expected = whole.model.encoder.state_dict()
    found = encoder.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
def test_half_precision_and_all_names_that_encoders_have(tmp_path, prefix):
    from safetensors.torch import load_file, save_file

    model = make_whisper(tmp_path).half()
    file = tmp_path / "model.safetensors"
    assert set(load_file(file)) == set(model.state_dict())  # as save_pretrained names them
    weights = {prefix + name: value for name, value in model.state_dict().items()}
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text()) | {"dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    for name, value in model.float().state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], value)


def test_damaged_folders_name_the_fix(tmp_path):
    make_whisper(tmp_path)
    config, about = tmp_path / "config.json", tmp_path / "preprocessor_config.json"
    weights = tmp_path / "model.safetensors"
    settings, extractor = json.loads(config.read_text()), json.loads(about.read_text())
    for file, content, match in (
        (config, settings | {"encoder_layers": 4}, r"no weights for \['layers.3"),
        (config, settings | {"max_source_positions": 90}, "unreadable"),
        (config, settings | {"d_model": "wide"}, r"config\.json unusable"),
        (config, settings | {"num_mel_bins": 80}, "20 mel bands, the model 80"),
        (about, extractor | {"feature_size": 80}, "80 mel bands, the model 20"),
        (about, extractor | {"sampling_rate": 8_000}, "8000 Hz"),
        (about, extractor | {"dither": 1e-4}, "dither"),
    ):
        good = file.read_text()
        file.write_text(json.dumps(content))
        with pytest.raises(checkpoints.EncoderError, match=match):
            load_encoder(tmp_path)
        file.write_text(good)
    good = weights.read_bytes()
    weights.write_bytes(good[:-200])
    with pytest.raises(checkpoints.EncoderError, match="unreadable"):
        load_encoder(tmp_path)
    weights.unlink()
    with pytest.raises(checkpoints.EncoderError, match=r"lacks model\.safetensors"):
        load_encoder(tmp_path)
    load_encoder(tmp_path, random_init=True)
    weights.write_bytes(good)
    about.unlink()
    with pytest.raises(checkpoints.EncoderError, match=r"lacks preprocessor_config\.json"):
        load_encoder(tmp_path)


def test_the_named_command_converts_pickled_weights(tmp_path):
    whole = make_whisper(tmp_path / "a", whole=True)
    (tmp_path / "a" / "model.safetensors").unlink()
    torch.save(whole.state_dict(), tmp_path / "a" / "pytorch_model.bin")
    encoder = load_encoder(offered(tmp_path / "a"))
    for name, value in whole.model.encoder.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], value), name


def test_wrong_inputs_and_options_are_refused(folder):
    encoder = load_encoder(folder)
    for wave in (np.zeros(0), np.zeros((2, 9)), np.float32(1)):
        with pytest.raises(ValueError, match="need"):
            encoder.prepare(wave)
    waves = torch.zeros(2, 1_000)
    for lengths in ([1_000, 0], [1_000, 1_001], [1_000]):
        with pytest.raises(ValueError, match="lengths"):
            encoder(waves, torch.tensor(lengths))
    with pytest.raises(ValueError, match="dimensions"):
        encoder(torch.zeros(1, 3, 24), torch.tensor([3]))
    for option, match in (
        ({"masked_group_norm": False}, "masked_group_norm=False is for"),
        ({"context": "half"}, "full or short"),
        ({"n_layers": 4}, "n_layers=4"),
        ({"freeze": "some"}, "cnn, all or none"),
    ):
        with pytest.raises(checkpoints.EncoderError, match=match):
            load_encoder(folder, **option)


def test_options_and_facts(folder):
    encoder = load_encoder(folder, dropout=0.25, n_layers=2)
    facts = json.loads(json.dumps(encoder.facts))
    assert (facts["family"], facts["modality"], facts["n_mels"]) == ("whisper", "speech", 20)
    assert (facts["n_layers"], facts["width"], facts["stride"]) == (2, 24, 320)
    assert facts["context_seconds"] == 2 and facts["attention_dropout"] == 0.25
    batch = pad(clips_of((4_000,)))
    encoded, all_of_them = encoder(*batch), load_encoder(folder)(*batch)
    assert len(encoded.layers) == 3
    assert all(map(torch.equal, encoded.layers, all_of_them.layers))
    rates = {layer.dropout for layer in encoder.model.layers} | {encoder.model.dropout}
    rates |= {layer.self_attn.dropout for layer in encoder.model.layers}
    assert rates == {0.25}


def test_random_init_is_decided_by_the_seed(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (load_encoder(folder, random_init=True, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert a.digest() == b.digest() != c.digest()
    positions = load_encoder(folder).model.embed_positions.weight
    assert torch.equal(a.model.embed_positions.weight, positions)  # sinusoids, drawn by nobody


def test_digest_changes_with_what_decides_the_output(folder, tmp_path):
    encoder = load_encoder(folder)
    found = {encoder.digest()}
    assert load_encoder(folder, freeze="all", dropout=0.3, spec_augment=0.2).digest() in found
    tuned = copy.deepcopy(encoder)
    with torch.no_grad():
        tuned.model.layer_norm.bias[0] += 1e-3
    found |= {tuned.digest(), load_encoder(folder, context="short").digest()}
    found |= {load_encoder(folder, n_layers=2).digest()}
    make_whisper(tmp_path)
    about = tmp_path / "preprocessor_config.json"
    settings = json.loads(about.read_text())
    assert load_encoder(tmp_path).digest() in found
    for change in ({"n_fft": 512}, {"padding_value": 0.1}, {"hop_length": 80}):
        about.write_text(json.dumps(settings | change))
        found.add(load_encoder(tmp_path).digest())
    assert len(found) == 7
    with pytest.raises(ValueError, match="take all"):
        encoder.digest("cnn")


@pytest.mark.parametrize("context", CONTEXTS)
def test_stored_frames_and_hidden_states(folder, context, tmp_path):
    encoder = load_encoder(folder, context=context, freeze="all")
    rng = np.random.default_rng(0)
    store = WaveStore(rng.integers(-9_000, 9_000, n).astype(np.int16) for n in (9_000, 50_000, 80))
    options = {"root": tmp_path, "progress": False}
    stored = features.cache(encoder, store, kind="frames", **options)
    expected = encoder(*pad([store[i] for i in range(3)]))
    for i, n in enumerate(expected.lengths.tolist()):
        assert stored[i].shape == (n, 24)
        torch.testing.assert_close(stored[i], expected.frames[i, :n], rtol=0, atol=1e-5)
    half = features.cache(encoder, store, kind="frames", dtype="float16", **options)
    torch.testing.assert_close(half[1].float(), stored[1], rtol=1e-3, atol=1e-3)
    layers = features.cache(encoder, store, kind="layers", **options)
    batch, lengths = pad([layers[i].view(len(layers[i]), 4, 24) for i in range(3)], torch.nan)
    torch.testing.assert_close(states(encoder(batch, lengths)), states(expected), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="has no CNN to store"):
        features.cache(encoder, store, kind="cnn", **options)


@pytest.mark.parametrize("context", CONTEXTS)
def test_bf16_autocast_runs_and_stays_close(folder, context):
    encoder = load_encoder(folder, context=context).train()
    batch = pad(clips_of((9_000, 40_000)))
    exact = states(encoder(*batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = encoder(*batch)
    encoded.frames.float().sum().backward()
    assert (states(encoded) - exact).norm() / exact.norm() < 0.05
    whole = load_encoder(folder, context=context).bfloat16()
    assert (states(whole(*batch)).float() - exact).norm() / exact.norm() < 0.05


def test_a_recognizer_on_whisper(folder):
    """The model of the other chapters takes it as it takes WavLM."""
    from model_toys import clips
    from serlib.models.recognizer import SER, ModelConfig

    model = SER(ModelConfig(str(folder), n_classes=4, layers="weighted", freeze="all")).eval()
    together, alone = model(clips(model, [0, 2, 3])), model(clips(model, [2]))
    assert together["emotion"].shape == (3, 4)
    torch.testing.assert_close(together["emotion"][1:2], alone["emotion"], rtol=0, atol=1e-5)


def test_shapes_of_the_full_size_architecture(tmp_path):
    """Those of whisper-tiny: 80 bands, width 384, 30 s; one of its layers."""
    config = whisper_config(
        d_model=384, encoder_layers=1, encoder_attention_heads=6, encoder_ffn_dim=1_536,
        num_mel_bins=80, max_source_positions=1_500,
    )  # fmt: skip
    stock = make_whisper(tmp_path, config)
    encoder = load_encoder(tmp_path)
    assert encoder.window_samples == 480_000 and encoder.facts["context_seconds"] == 30
    clips = clips_of((93_000,))
    mels = extractor_of(tmp_path)(clips, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        encoded, expected = encoder(*pad(clips)), stock(mels).last_hidden_state
    assert encoded.lengths.tolist() == [291] and encoded.frames.shape == (1, 291, 384)
    torch.testing.assert_close(encoded.frames[0], expected[0, :291], rtol=1e-4, atol=1e-4)
