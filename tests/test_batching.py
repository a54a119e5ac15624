from __future__ import annotations

import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch

from serlib.data import audio, batching
from serlib.data.batching import DurationBatchSampler, Item, collate
from serlib.data.stores import TextStore, WaveStore
from serlib.losses import classification
from serlib.training import loop

# ---------------------------------------------------------------------------------------- WaveStore


def waves_of(lengths, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-20_000, 20_000, n).astype(np.int16) for n in lengths]


@pytest.fixture
def corpus(tmp_path):
    """Four clips on disk, and their samples."""
    waves = waves_of((1_600, 800, 2_400, 5))
    (tmp_path / "a").mkdir()
    for i, wave in enumerate(waves):
        audio.save(tmp_path / "a" / f"{i}.wav", audio.from_int16(wave))
    table = pd.DataFrame({"key": list("wxyz"), "wav": [f"a/{i}.wav" for i in range(4)]})
    return tmp_path, table, waves


def test_store_holds_every_sample_in_manifest_order(corpus):
    root, table, waves = corpus
    store = WaveStore.from_manifest(table, root, progress=False)
    assert len(store) == 4
    for i, wave in enumerate(waves):
        assert store.waves[i].dtype == np.int16
        np.testing.assert_array_equal(store[i], wave.astype(np.float32) / 32_768)
        assert store[i].dtype == np.float32
    assert store.durations.tolist() == [0.1, 0.05, 0.15, 5 / 16_000]
    one = WaveStore.from_manifest(table.iloc[::-1], root, progress=False, workers=1)
    np.testing.assert_array_equal(one[0], store[3])
    assert len(WaveStore.from_manifest(table.iloc[:0], root, progress=False)) == 0


def test_store_uses_channel_start_and_end(tmp_path):
    import soundfile

    left, right = waves_of((1_600, 1_600))
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], 1), 16_000, subtype="PCM_16")
    table = pd.DataFrame(
        {
            "wav": ["s.wav"] * 3,
            "channel": [2.0, 1.0, np.nan],  # as pandas reads a column with holes
            "start": [np.nan, 0.025, None],
            "end": [None, 0.05, np.nan],
        }
    )
    store = WaveStore.from_manifest(table, tmp_path, progress=False)
    np.testing.assert_array_equal(store.waves[0], right)
    np.testing.assert_array_equal(store.waves[1], left[400:800])
    mean = (left.astype(float) + right) / 2
    assert np.abs(store.waves[2] - mean).max() <= 0.5


def test_all_bad_clips_are_listed_in_one_error(corpus):
    root, table, _ = corpus
    (root / "a" / "1.wav").write_text("not audio")
    (root / "a" / "3.wav").unlink()
    bad = pd.concat([table, pd.DataFrame({"key": ["o"], "wav": ["../outside.wav"]})])
    with pytest.raises(audio.AudioError) as error:
        WaveStore.from_manifest(bad, root, progress=False)
    message = str(error.value)
    assert message.startswith("3 of 5 clips cannot be used:")
    assert len(message.splitlines()) == 4
    for name in ("1.wav", "3.wav", "outside.wav"):
        assert name in message
    assert "0.wav" not in message and "2.wav" not in message


def test_store_refuses_what_is_not_int16():
    for wave in (np.zeros(3, np.float32), np.zeros((2, 2), np.int16), np.zeros(0, np.int16)):
        with pytest.raises(ValueError, match="int16"):
            WaveStore([wave])


def test_store_digest_is_of_the_samples_and_their_division():
    a, b = waves_of((300, 200))
    digest = WaveStore([a, b]).digest()
    assert digest == WaveStore([a.copy(), b.copy()]).digest()
    changed = a.copy()
    changed[7] += 1
    both = np.concatenate([a, b])
    for other in ([b, a], [changed, b], [a], [both[:250], both[250:]]):
        assert WaveStore(other).digest() != digest


# ---------------------------------------------------------------------------------------- TextStore


def test_texts_come_back_as_they_are_and_missing_ones_empty():
    texts = ["I'm FINE. ", "", None, float("nan"), pd.NA, "line\nbreak", "\ud800"]
    store = TextStore(pd.Series(texts, dtype=object))
    assert list(store) == ["I'm FINE. ", "", "", "", "", "line\nbreak", "\ud800"]
    assert len(store) == 7 and store[-2] == "line\nbreak"
    assert list(TextStore(pd.Series(["a", None], dtype="string"))) == ["a", ""]
    with pytest.raises(IndexError):
        store[7]
    for wrong in ([1], [["a"]], [b"a"], [np.zeros(2)]):
        with pytest.raises(ValueError, match="no text"):
            TextStore(wrong)


def test_digest_of_texts():
    digests = {
        TextStore(texts).digest()
        for texts in (
            [],
            [""],
            ["", ""],
            ["ab"],
            ["a", "b"],
            ["b", "a"],
            ["a 1 b"],
            ["a", "1", "b"],
        )
    }
    assert len(digests) == 8
    assert TextStore(["a", None]).digest() == TextStore(["a", ""]).digest()
    assert TextStore(["\ud800"]).digest() != TextStore(["?"]).digest()


# ------------------------------------------------------------------------------- Batch and collate


def items_of(lengths, **extra) -> list[Item]:
    return [
        Item(np.full(n, i + 1, np.float32), f"k{i}", 10 + i, n / 16_000, i % 3,
             {name: values[i] for name, values in extra.items()})
        for i, n in enumerate(lengths)
    ]  # fmt: skip


def test_collate_by_hand():
    batch = collate(items_of((2, 5, 4)), quantum=3)
    assert batch.inputs.tolist() == [
        [1, 1, 0, 0, 0, 0],
        [2, 2, 2, 2, 2, 0],
        [3, 3, 3, 3, 0, 0],
    ]
    assert batch.inputs.dtype == torch.float32
    assert batch.lengths.tolist() == [2, 5, 4] and batch.lengths.dtype == torch.int64
    assert batch.emotion.tolist() == [0, 1, 2] and batch.emotion.dtype == torch.int64
    assert batch.index.tolist() == [10, 11, 12] and batch.keys == ["k0", "k1", "k2"]
    assert batch.seconds == pytest.approx(11 / 16_000)
    assert batch.padding == pytest.approx(1 - 11 / 18)
    assert collate(items_of((4, 4)), quantum=4).padding == 0
    assert collate(items_of((3,))).inputs.shape == (1, 3)
    with pytest.raises(ValueError, match="at least one"):
        collate([])


def test_collate_features_and_extra_targets():
    items = [
        Item(torch.full((t, 2), float(t), dtype=torch.float16), str(t), t, 0.1,
             extra={"speaker": t, "attributes": np.array([t, 0.5], np.float32)})
        for t in (1, 3)
    ]  # fmt: skip
    batch = collate(items, quantum=4)
    assert batch.inputs.shape == (2, 4, 2) and batch.inputs.dtype == torch.float16
    assert batch.inputs[:, :, 0].tolist() == [[1, 0, 0, 0], [3, 3, 3, 0]]
    assert batch.emotion.tolist() == [classification.IGNORE] * 2 == [-100] * 2
    assert batch.extra["speaker"].tolist() == [1, 3]
    assert batch.extra["attributes"].tolist() == [[1, 0.5], [3, 0.5]]


def test_to_moves_tensors_but_not_lengths():
    batch = collate(items_of((2, 3), speaker=[4, 5])).to("meta")
    assert {batch.inputs.device.type, batch.emotion.device.type} == {"meta"}
    assert batch.extra["speaker"].device.type == "meta"
    assert batch.lengths.device.type == batch.index.device.type == "cpu"


def test_clips_hold_targets_and_make_batches_in_order():
    store = WaveStore(waves_of((30, 10, 20, 40)))
    clips = batching.Clips(
        store, list("abcd"), store.durations, emotion=np.array([3, 2, 1, 0]),
        extra={"speaker": np.array([7, 8, 9, 7])}, prepare=lambda wave: wave * 2,
    )  # fmt: skip
    batches = list(clips.batches(iter([[2, 0], [np.int64(3)], [1]]), quantum=8))
    assert [batch.keys for batch in batches] == [["c", "a"], ["d"], ["b"]]
    assert [batch.inputs.shape for batch in batches] == [(2, 32), (1, 40), (1, 16)]
    assert batches[0].emotion.tolist() == [1, 3] and batches[0].index.tolist() == [2, 0]
    assert batches[0].extra["speaker"].tolist() == [9, 7]
    assert batches[0].seconds == pytest.approx(50 / 16_000)
    np.testing.assert_array_equal(batches[2].inputs[0, :10], store[1] * 2)
    assert list(clips.batches([])) == []
    plain = batching.Clips(store, list("abcd"), store.durations)[1]
    assert plain.emotion == -100 and plain.extra == {}
    for keys, labels in (("abc", [0] * 4), ("abcd", [0] * 3)):
        with pytest.raises(ValueError, match="4 inputs"):
            batching.Clips(store, list(keys), store.durations, emotion=labels)


def test_batches_are_counted_without_being_made_and_can_be_gone_over_again():
    made = []

    def prepare(wave):
        made.append(len(wave))
        return wave

    store = WaveStore(waves_of((30, 10, 20, 40)))
    clips = batching.Clips(store, list("abcd"), store.durations, prepare=prepare)
    batches = clips.batches(iter([[0], [1, 2], [3]]))
    assert len(batches) == 3 and made == []
    first = iter(batches)
    next(first)
    assert len(made) <= 3  # itself and the next, not the whole plan
    first.close()
    once, again = ([batch.keys for batch in batches] for _ in range(2))
    assert once == again == [["a"], ["b", "c"], ["d"]]


def test_batches_report_errors_and_leave_no_thread_when_left_early():
    def prepare(wave):
        if len(wave) == 20:
            raise RuntimeError("broken clip")
        return wave

    store = WaveStore(waves_of((30, 10, 20)))
    clips = batching.Clips(store, list("abc"), store.durations, prepare=prepare)
    with pytest.raises(RuntimeError, match="broken clip"):
        list(clips.batches([[0], [2], [1]]))
    before = threading.active_count()
    for _ in clips.batches([[0], [1], [0], [1]]):
        break
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


# ------------------------------------------------------------------------- DurationBatchSampler


def msp_like(n: int, seed: int = 0) -> np.ndarray:
    """Durations as in MSP-Podcast: 2.75 to 11 s, 5.75 s on average."""
    return np.clip(np.random.default_rng(seed).gamma(6, 0.95, 3 * n), 2.75, 11)[:n]


def cost(batch, durations, quantum: float) -> float:
    """Padded seconds, in another way than the sampler: units of a quantum by decimal rounding."""
    return len(batch) * quantum * max(int(-(-round(durations[i] / quantum, 6) // 1)) for i in batch)


def test_every_clip_once_and_the_budget_kept_whatever_the_durations():
    rng = np.random.default_rng(0)
    for trial in range(60):
        n = int(rng.integers(1, 200))
        durations = rng.choice([0.01, 0.25, 0.5, 3.0], n) * rng.choice([1, 1, 40], n)
        if trial % 2:
            durations = durations * rng.uniform(0.5, 1.5, n)
        quantum, budget = float(rng.choice([0.1, 0.25, 1.0])), float(rng.uniform(1, 60))
        most = [None, 1, 3, 50][trial % 4]
        sampler = DurationBatchSampler(
            durations, budget_seconds=budget, quantum_seconds=quantum, seed=trial,
            shuffle=bool(trial % 3), max_clips=most,
        )  # fmt: skip
        for epoch in range(3):
            batches = sampler.epoch(epoch)
            assert sorted(i for batch in batches for i in batch) == list(range(n))
            for batch in batches:
                assert len(batch) <= (most or n)
                assert len(batch) == 1 or cost(batch, durations, quantum) <= budget + 1e-9


def test_a_batch_that_fits_exactly_is_not_split():
    for quantum in (0.1, 0.25, 0.3):  # 0.1 and 0.3 have no exact binary form
        sampler = DurationBatchSampler([3 * quantum] * 10, budget_seconds=15 * quantum,
                                       quantum_seconds=quantum)  # fmt: skip
        assert [len(batch) for batch in sampler.epoch(0)] == [5, 5]


def test_a_budget_of_seven_tenths_holds_seven_tenths():
    assert 0.7 / 0.1 < 7  # in floating point
    sampler = DurationBatchSampler([0.1] * 7, budget_seconds=0.7, quantum_seconds=0.1)
    assert [len(batch) for batch in sampler.epoch(0)] == [7]


def test_deterministic_in_seed_and_epoch_and_different_otherwise():
    durations = msp_like(300)

    def plan(seed, epoch, **options):
        return DurationBatchSampler(durations, budget_seconds=60, seed=seed, **options).epoch(epoch)

    assert plan(0, 4) == plan(0, 4)
    sets = {frozenset(map(frozenset, plan(s, e))) for s, e in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len(sets) == 4  # other company, not only another order
    assert plan(0, 1) != plan(1, 0)
    np.random.seed(1)
    assert plan(0, 4) == plan(0, 4)
    sampler = DurationBatchSampler(durations, budget_seconds=60)
    late, early = sampler.epoch(7), sampler.epoch(0)
    assert (early, late) == (sampler.epoch(0), sampler.epoch(7))  # epochs can be asked in any order


def test_without_shuffling_the_longest_come_first_and_epochs_are_equal():
    durations = msp_like(100)
    sampler = DurationBatchSampler(durations, budget_seconds=40, shuffle=False)
    flat = [i for batch in sampler.epoch(0) for i in batch]
    assert flat == np.argsort(-durations, kind="stable").tolist()
    assert sampler.epoch(0) == sampler.epoch(5)


def test_the_first_batch_is_not_always_the_longest():
    durations = msp_like(400)
    sampler = DurationBatchSampler(durations, budget_seconds=60)
    first = {int(durations[sampler.epoch(epoch)[0]].mean()) for epoch in range(12)}
    assert len(first) > 2


def test_padding_stays_small_where_random_batches_waste_most():
    durations, quantum = msp_like(5_000), 0.25
    sampler = DurationBatchSampler(durations, budget_seconds=186)
    batches = sampler.epoch(0)
    overhead = sum(cost(batch, durations, quantum) for batch in batches) / durations.sum()
    assert overhead < 1.10
    order = np.random.default_rng(0).permutation(len(durations))
    wasteful = sum(cost(order[i : i + 32], durations, quantum) for i in range(0, len(order), 32))
    assert wasteful / durations.sum() > 1.5
    used = [cost(batch, durations, quantum) for batch in batches]
    assert np.median(used) > 0.9 * 186  # and the budget is used


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_every_step_of_one(world, shuffle):
    durations = msp_like(101)
    sampler = DurationBatchSampler(durations, budget_seconds=120, shuffle=shuffle)
    shares = [sampler.epoch(3, rank=rank, world=world) for rank in range(world)]
    steps = [[i for batch in step for i in batch] for step in zip(*shares, strict=True)]
    alone = sampler.epoch(3)
    assert all(len(batch) >= world for batch in alone), "else this test is another one"
    assert [sorted(step) for step in steps] == [sorted(batch) for batch in alone]
    for step in zip(*shares, strict=True):  # even in clips and in length
        counts = [len(batch) for batch in step]
        assert max(counts) - min(counts) <= 1
        assert max(cost(batch, durations, 0.25) for batch in step) <= 120 / world + 12


@pytest.mark.parametrize("world", [2, 3])
def test_a_batch_of_fewer_clips_than_processes_joins_its_neighbor(world):
    durations = [1.0] * 9 + [0.5]
    sampler = DurationBatchSampler(durations, budget_seconds=3, shuffle=False)
    assert [len(batch) for batch in sampler.epoch(0)] == [3, 3, 3, 1]
    shares = [sampler.epoch(0, rank=rank, world=world) for rank in range(world)]
    sizes = [sum(map(len, step)) for step in zip(*shares, strict=True)]
    assert sizes == [3, 3, 4]
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(10))
    long = DurationBatchSampler([9.0] + [1.0] * 4, budget_seconds=4, shuffle=False)
    assert [len(batch) for batch in long.epoch(0)] == [1, 4]  # over the budget: alone, and first
    joined = [long.epoch(0, rank=rank, world=2) for rank in range(2)]
    assert sorted(i for share in joined for i in share[0]) == list(range(5))


def test_processes_that_cannot_share_are_refused():
    sampler = DurationBatchSampler([1.0] * 9, budget_seconds=9, max_clips=2)
    with pytest.raises(ValueError, match="2 clips per batch, at most, for 3 processes"):
        sampler.epoch(0, rank=0, world=3)
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="rank"):
            sampler.epoch(0, rank=rank, world=world)
    assert DurationBatchSampler([], budget_seconds=1).epoch(0, rank=1, world=2) == []


def test_sampler_refuses_nonsense():
    for durations in ([0.0], [-1.0], [np.nan], [np.inf]):
        with pytest.raises(ValueError, match="durations"):
            DurationBatchSampler(durations, budget_seconds=1)
    for options in ({"budget_seconds": 0}, {"budget_seconds": 0.1}, {"quantum_seconds": 0},
                    {"max_clips": 0}, {"budget_seconds": float("nan")}):  # fmt: skip
        with pytest.raises(ValueError):
            DurationBatchSampler([1.0], **({"budget_seconds": 10} | options))


@pytest.mark.parametrize("ahead", [1, 3])
def test_an_epoch_of_waves_is_made_little_by_little_and_in_order(ahead):
    made = []

    def prepare(wave: np.ndarray) -> np.ndarray:
        made.append(len(wave))
        return wave

    store = WaveStore([np.full(n, n, np.int16) for n in range(1, 21)])
    clips = batching.Clips(store, [f"k{i}" for i in range(20)], store.durations, prepare=prepare)
    batches = clips.batches([[i] for i in range(20)], ahead=ahead)
    assert len(batches) == 20
    windows, steps = loop.epoch_windows(batches, 2)
    assert steps == 10 and not made  # nothing is held for the sake of counting
    keys = []
    for window in windows:
        keys += [key for batch in window for key in batch.keys]
        assert len(made) <= len(keys) + ahead
    assert keys == [f"k{i}" for i in range(20)]


def test_batches_are_pinned_only_when_asked(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x.shape) or x)
    clips = batching.Clips([np.ones(3, np.float32)], ["a"], [1.0], extra={"gender": [1]})
    (batch,) = clips.batches([[0]])
    assert not pinned
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (same,) = clips.batches([[0]])
    assert len(pinned) == 3 and same.lengths is not None  # inputs, emotion, gender
    assert torch.equal(same.inputs, batch.inputs) and same.keys == batch.keys


# ------------------------------------------------------------------------------ several inputs


def test_each_stream_is_padded_by_its_own_lengths():
    frames = [np.full((t, 2), t, np.float16) for t in (3, 1)]
    tokens = [np.arange(n) + 1 for n in (2, 5)]
    clips = batching.Clips(
        {"ear": frames, "words": tokens}, ["a", "b"], [1.0, 2.0], emotion=[0, 1],
        prepare={"words": lambda ids: ids * 10},
    )  # fmt: skip
    (batch,) = clips.batches([[0, 1]], quantum={"ear": 4, "words": 1})
    assert list(batch.streams) == ["ear", "words"]
    ear, words = batch.streams["ear"], batch.streams["words"]
    assert ear[0].dtype == torch.float16 and ear[0][:, :, 0].tolist() == [
        [3, 3, 3, 0],
        [1, 0, 0, 0],
    ]
    assert words[0].tolist() == [[10, 20, 0, 0, 0], [10, 20, 30, 40, 50]]
    assert (ear[1].tolist(), words[1].tolist()) == ([3, 1], [2, 5])
    assert batch.inputs is ear[0] and batch.lengths is ear[1]
    assert batch.padding == 0.5 and batch.seconds == 3.0
    (coarse,) = clips.batches([[0, 1]], quantum=8)
    assert [x.shape[1] for x, _ in coarse.streams.values()] == [8, 8]
    for keys in (["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="2, 2"):
            batching.Clips({"ear": frames, "words": tokens}, keys, [1.0] * len(keys))
    with pytest.raises(ValueError, match="inputs"):
        batching.Clips({}, [], [])


def test_streams_move_and_their_lengths_stay():
    item = Item({"ear": np.ones((2, 3)), "words": np.arange(4)}, "a", 0, 1.0)
    batch = collate([item]).to("meta")
    assert {x.device.type for x, _ in batch.streams.values()} == {"meta"}
    assert {n.device.type for _, n in batch.streams.values()} == {"cpu"}
    assert batch.inputs is batch.streams["ear"][0] and batch.lengths.device.type == "cpu"
