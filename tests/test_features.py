"""Features of frozen encoders, computed once: `features.cache` and `features`."""

from __future__ import annotations

import json
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from serlib import records
from serlib.data import batching, features
from serlib.data.stores import TextStore, WaveStore
from serlib.models.encoders.load import load_encoder


def waves_of(lengths, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-20_000, 20_000, n).astype(np.int16) for n in lengths]


class Toy(nn.Module):
    """An encoder in miniature: means of 4 samples, 2 layers. Counts the clips that it is given."""

    modality = "speech"

    def __init__(self, freeze: str = "all", scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.freeze, self.calls, self.batches = freeze, 0, set()

    def digest(self, part: str = "all") -> str:
        return f"{part} {self.scale.item()}"

    def prepare(self, wave):
        return np.pad(wave, (0, max(4 - len(wave), 0)))

    def extract(self, waves, lengths):
        self.calls += len(waves)
        self.batches.add((len(waves), waves.shape[1]))
        frames = waves[:, : waves.shape[1] // 4 * 4].reshape(len(waves), -1, 4)
        return frames.mean(2, keepdim=True) * torch.tensor([1.0, 10.0]) * self.scale, lengths // 4

    def contextualize(self, features, lengths):
        layers = (features, features + 1, features * 2)
        return SimpleNamespace(frames=layers[-1], lengths=lengths, layers=layers)


LENGTHS = (40, 3, 17, 160)


def expected_cnn(store, i):
    wave = np.pad(store[i], (0, max(4 - len(store[i]), 0)))
    means = [wave[t : t + 4].mean() for t in range(0, len(wave) // 4 * 4, 4)]
    return np.stack([means, 10 * np.array(means)], 1)


def test_features_are_computed_once_and_read_afterwards(tmp_path):
    store, encoder = WaveStore(waves_of(LENGTHS)), Toy()
    for calls in (4, 4):  # the second time reads
        cached = features.cache(encoder, store, root=tmp_path, progress=False)
        assert encoder.calls == calls and len(cached) == 4
        for i in range(4):
            np.testing.assert_allclose(cached[i], expected_cnn(store, i), rtol=1e-5)
            assert cached[i].dtype == torch.float32
    assert encoder.batches == {(4, 4000)}  # together, padded to a quarter of a second
    assert isinstance(cached.rows, np.memmap) and not cached.rows.flags.writeable
    cached[0][:] = 5  # a copy: the file is unharmed
    np.testing.assert_allclose(cached[0], expected_cnn(store, 0), rtol=1e-5)
    np.testing.assert_array_equal(cached[-1], cached[3])
    np.testing.assert_array_equal(cached[-4], cached[0])
    with pytest.raises(IndexError):
        cached[4]
    assert len(list(cached)) == 4


def test_an_encoder_that_lets_padding_in_gets_each_clip_alone(tmp_path):
    store, encoder = WaveStore(waves_of(LENGTHS)), Toy()
    encoder.padding_leaks = True
    cached = features.cache(encoder, store, root=tmp_path, progress=False)
    assert encoder.batches == {(1, 40), (1, 4), (1, 17), (1, 160)}
    for i in range(4):
        np.testing.assert_allclose(cached[i], expected_cnn(store, i), rtol=1e-5)


def test_clips_of_like_length_share_a_batch_and_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 6)
    monkeypatch.setattr(features, "TOGETHER", 2)
    lengths = (9_000, 40, 8_000, 3, 4_001, 160, 17, 12_000)
    store, encoder = WaveStore(waves_of(lengths)), Toy()
    cached = features.cache(encoder, store, root=tmp_path, progress=False)
    for i in range(len(lengths)):
        np.testing.assert_allclose(cached[i], expected_cnn(store, i), rtol=1e-4, atol=1e-7)
    # of the first six 3 and 40, 160 and 4,001, 8,000 and 9,000; then 17 and 12,000
    assert encoder.batches == {(2, 4_000), (2, 8_000), (2, 12_000)} and encoder.calls == 8


@pytest.mark.parametrize("name", ["demo-wavlm", "demo-wav2vec2", "demo-whisper", "demo-roberta"])
def test_a_batch_gives_each_clip_what_it_gets_alone(tmp_path, monkeypatch, name):
    encoder = load_encoder(name, freeze="all")
    store = WaveStore(waves_of((9_000, 300, 16_000, 24_123, 4_000, 4_001)))
    if encoder.modality == "text":
        store = TextStore(["", "Yes.", "I do not know what you mean.", "Why not?", None])
    for kind in ("layers", "frames", "layers_mean", "output_mean"):
        together = features.cache(encoder, store, root=tmp_path, kind=kind, progress=False)
        with monkeypatch.context() as patch:
            patch.setattr(features, "TOGETHER", 1)
            patch.setattr(features, "QUANTUM", {"speech": 1, "text": 1})
            alone = features.cache(encoder, store, root=tmp_path / "alone", kind=kind)
        assert len(together) == len(alone) == len(store)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_layer_means(tmp_path):
    store = WaveStore(waves_of(LENGTHS))
    options = {"root": tmp_path, "progress": False}
    means = features.cache(Toy(), store, kind="layers_mean", **options)
    for i in range(4):
        mean = expected_cnn(store, i).mean(0)
        np.testing.assert_allclose(means[i], [mean, mean + 1, mean * 2], rtol=1e-4)
    (batch,) = batching.Clips(means, list("abcd"), store.durations).batches([[0, 1, 2, 3]])
    assert batch.inputs.shape == (4, 3, 2) and batch.padding == 0


def test_all_layers_side_by_side_and_the_mean_of_the_output(tmp_path):
    store, options = WaveStore(waves_of(LENGTHS)), {"root": tmp_path, "progress": False}
    layers = features.cache(Toy(), store, kind="layers", **options)
    means = features.cache(Toy(), store, kind="output_mean", **options)
    for i in range(4):
        cnn = expected_cnn(store, i)
        states = layers[i].view(len(cnn), 3, 2)  # (T, L + 1, D), as experiments read them
        for layer, expected in enumerate((cnn, cnn + 1, cnn * 2)):
            np.testing.assert_allclose(states[:, layer], expected, rtol=1e-5)
        assert means[i].shape == (1, 2)
        np.testing.assert_allclose(means[i][0], (2 * cnn).mean(0), rtol=1e-5)


def test_the_states_of_frozen_lower_layers(tmp_path):
    store, options = WaveStore(waves_of(LENGTHS)), {"root": tmp_path, "progress": False}
    encoder = Toy()
    with pytest.raises(ValueError, match="changes in training"):
        features.cache(encoder, store, kind="lower", **options)
    encoder.freeze = "cnn"
    for frozen in (1, 2):
        encoder.freeze_layers = frozen
        lower = features.cache(encoder, store, kind="lower", **options)
        for i in range(4):
            cnn = expected_cnn(store, i)
            beside = np.concatenate([cnn, cnn + 1, cnn * 2][: frozen + 1], 1)
            np.testing.assert_allclose(lower[i], beside, rtol=1e-5)
    encoder.digest = lambda part="all": {"lower": "the same"}.get(part, "tuned above")
    calls = encoder.calls
    for _ in range(2):  # the first call makes a file under the new name, the second reads it
        features.cache(encoder, store, kind="lower", **options)
    assert encoder.calls == calls + 4


def test_features_are_named_by_everything_they_depend_on(tmp_path, monkeypatch):
    store = WaveStore(waves_of(LENGTHS))
    options = {"root": tmp_path, "progress": False}

    def files(encoder, store, **changes):
        features.cache(encoder, store, **options | changes)
        return {path.name for path in tmp_path.glob("*.bin")}

    known = files(Toy(), store)
    for encoder, waves, changes in (
        (Toy(scale=2.0), store, {}),
        (Toy(), WaveStore(waves_of(LENGTHS, seed=1)), {}),
        (Toy(), store, {"kind": "layers_mean"}),
        (Toy(), store, {"dtype": "float16"}),
    ):
        more = files(encoder, waves, **changes)
        assert len(more) == len(known) + 1, changes
        known = more
    assert files(Toy(), store) == known
    monkeypatch.setattr(records, "source_digest", lambda modules: "other code")
    assert len(files(Toy(), store)) == len(known) + 1


def test_the_number_of_threads_does_not_matter(tmp_path):
    """Bit for bit; the demo encoder's convolutions do add up otherwise on two threads."""
    encoder, store = load_encoder("demo-wavlm"), WaveStore(waves_of([40_000, 33_333, 50_001]))
    before, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(features.cache(encoder, store, root=tmp_path / str(n)).rows.tobytes())
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_gpu_multiplies_in_tf32_and_nothing_else_does(tmp_path, monkeypatch, on_gpu):
    """A toy stands in for the device: what holds while features are made, and afterwards."""

    class Listening(Toy):
        def to(self, device):
            return self

        def extract(self, waves, lengths):
            said.add(torch.get_float32_matmul_precision())
            return super().extract(waves, lengths)

    said, before = set(), torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    features.cache(Listening(), WaveStore(waves_of(LENGTHS)), root=tmp_path, progress=False)
    assert said == {"high" if on_gpu else before} and before == "highest"
    assert torch.get_float32_matmul_precision() == before


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    features.cache(Toy(), WaveStore(waves_of((8,))), progress=False)
    assert len(list((tmp_path / "features").glob("cnn-*.bin"))) == 1


def damage_cut(data, about):
    data.write_bytes(data.read_bytes()[:-4])


def damage_longer(data, about):
    data.write_bytes(data.read_bytes() + b"1234")


def damage_flip(data, about):
    content = bytearray(data.read_bytes())
    content[11] ^= 1
    data.write_bytes(content)


def damage_other_json(data, about):
    about.write_text('{"sha256": 1}')


def damage_json_cut(data, about):
    about.write_text(about.read_text()[:40])


def damage_no_json(data, about):
    about.unlink()


def damage_lengths(data, about):
    content = json.loads(about.read_text())
    content["lengths"][0] += 1
    about.write_text(json.dumps(content))


def damage_at_the_same_time(data, about):
    stat, content = data.stat(), bytearray(data.read_bytes())
    content[5] ^= 1
    data.write_bytes(content)
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def damage_no_data(data, about):
    data.unlink()


DAMAGES = [value for name, value in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_features_are_made_anew(tmp_path, damage):
    store, options = WaveStore(waves_of(LENGTHS)), {"root": tmp_path, "progress": False}
    features.cache(Toy(), store, **options)
    (data,), (about,) = tmp_path.glob("*.bin"), tmp_path.glob("*.json")
    damage(data, about)
    encoder = Toy()
    cached = features.cache(encoder, store, **options)
    assert encoder.calls == 4
    for i in range(4):
        np.testing.assert_allclose(cached[i], expected_cnn(store, i), rtol=1e-5)
    features.cache(encoder, store, **options)
    assert encoder.calls == 4


def test_a_killed_computation_leaves_nothing_that_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "TOGETHER", 1)

    class Killed(Toy):
        def extract(self, waves, lengths):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().extract(waves, lengths)

    store, options = WaveStore(waves_of(LENGTHS)), {"root": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        features.cache(Killed(), store, **options)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    encoder = Toy()
    assert len(features.cache(encoder, store, **options)) == encoder.calls == 4


def test_what_is_stored_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    store, options = WaveStore(waves_of(LENGTHS)), {"root": tmp_path, "progress": False}
    first = features.cache(Toy(), store, **options)
    monkeypatch.setattr(features.filelock, "FileLock", None)
    assert torch.equal(features.cache(Toy(), store, **options)[3], first[3])


def test_processes_wait_for_the_one_that_computes(tmp_path):
    class Slow(Toy):
        def extract(self, waves, lengths):
            time.sleep(0.05)
            return super().extract(waves, lengths)

    store, encoder = WaveStore(waves_of(LENGTHS)), Slow()

    def work():
        features.cache(encoder, store, root=tmp_path, progress=False)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoder.calls == 4


def test_half_precision(tmp_path):
    store, options = WaveStore(waves_of(LENGTHS)), {"root": tmp_path, "progress": False}
    half = features.cache(Toy(), store, dtype="float16", **options)
    full = features.cache(Toy(), store, **options)
    assert half[0].dtype == torch.float16
    for a, b in zip(half, full, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=5e-4, atol=1e-7)
    with pytest.raises(ValueError, match="not finite in float16"):
        features.cache(Toy(scale=1e6), store, dtype="float16", **options)
    with pytest.raises(ValueError, match="not finite in float32"):
        features.cache(Toy(scale=float("inf")), store, **options)


def test_features_that_training_changes_are_refused(tmp_path):
    store = WaveStore(waves_of((8,)))
    for freeze, kind in (
        ("none", "cnn"), ("none", "layers_mean"), ("cnn", "layers_mean"), ("cnn", "layers"),
        ("cnn", "output_mean"), ("cnn", "frames"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="changes in training"):
            features.cache(Toy(freeze), store, root=tmp_path, kind=kind)
    features.cache(Toy("cnn"), store, root=tmp_path, progress=False)
    for options in ({"kind": "tokens"}, {"dtype": "bfloat16"}):
        with pytest.raises(ValueError, match="kind"):
            features.cache(Toy(), store, root=tmp_path, **options)


def test_feature_files_refuse_nothing_and_uneven_widths(tmp_path):
    path = tmp_path / "x.bin"
    with pytest.raises(ValueError, match="widths"):
        features.write(path, [])
    with pytest.raises(ValueError, match=r"widths \[2, 3\]"):
        features.write(path, [np.zeros((1, 2)), np.zeros((1, 3))])
    assert features.read(path) is None
    with pytest.raises(ValueError, match="5 rows"):
        features.FeatureStore(np.zeros((5, 2)), [2, 2])


def test_reading_does_not_load_the_file(tmp_path):
    """40 MB on disk, a few MB in Python's memory."""
    import tracemalloc

    path = tmp_path / "x.bin"
    features.write(path, (np.full((1_000, 100), i, np.float32) for i in range(100)))
    assert os.path.getsize(path) == 40_000_000
    tracemalloc.start()
    store = features.read(path)
    assert float(store[99][0, 0]) == 99
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_training_on_stored_features_equals_training_on_waves(tmp_path, norm):
    """The real encoder: stored alone, used in a batch, against waves through the CNN in a batch."""
    from transformers import AutoModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from serlib.models.encoders.load import load_encoder

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        conv_dim=[12] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        feat_extract_norm=norm,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    store = WaveStore(waves_of((9_000, 300, 16_000)))
    stored = features.cache(encoder, store, root=tmp_path, progress=False)
    plan, keys = [[2, 0, 1]], list("abc")
    waves = batching.Clips(store, keys, store.durations, prepare=encoder.prepare)
    (a,) = waves.batches(plan, quantum=4_000)
    (b,) = batching.Clips(stored, keys, store.durations).batches(plan, quantum=4)
    assert b.lengths.tolist() == encoder.frame_lengths(a.lengths).tolist()
    assert a.seconds == b.seconds == pytest.approx(25_300 / 16_000)
    with torch.no_grad():
        from_waves, from_store = encoder(a.inputs, a.lengths), encoder(b.inputs, b.lengths)
    n = min(from_waves.frames.shape[1], from_store.frames.shape[1])
    assert (from_waves.frames[:, :n] - from_store.frames[:, :n]).abs().max() < 1e-5
    frozen = load_encoder(tmp_path, freeze="all")
    means = features.cache(frozen, store, root=tmp_path, kind="layers_mean", progress=False)
    valid = from_waves.frames[1, : int(from_waves.lengths[1])]
    torch.testing.assert_close(means[0][-1], valid.mean(0), rtol=1e-4, atol=1e-5)
