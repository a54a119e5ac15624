"""Sound files of every kind: whole, cut, without a length, with a false one, and mutated."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

import sound_toys as toys
from serlib.corpora import measure
from serlib.data import audio, decoding

RATE, NEAR = toys.RATE, 0.06 * toys.RATE  # samples that may be missing: padding of codecs, an edge
FUZZ = int(os.environ.get("SERLIB_FUZZ", 0))  # mutations of each kind of file, in processes
BIG = 2**31 - 1


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A home in which nothing was measured."""
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path / "home"))


def load(path: Path, data: bytes, **span) -> np.ndarray:
    """Load bytes; what the builder says of the whole file agrees."""
    path.write_bytes(data)
    facts = measure.measure(path.parent, [path.name], progress=False).iloc[0]
    try:
        wave = audio.load(path, **span)
    except audio.AudioError as error:
        if not span:
            assert facts["error"] and str(error).startswith(f"{path}: {facts['error'][:20]}")
        assert "\n" not in str(error), error
        raise
    if not span:
        assert facts["error"] is None
        assert facts["num_frame"] * RATE == pytest.approx(
            len(wave) * facts["sample_rate"], rel=1e-3
        )
    return wave


# ---- whole and cut ------------------------------------------------------------------------------


@pytest.mark.parametrize(("container", "coding", "error"), toys.FORMATS, ids=toys.NAMES)
def test_every_format_is_read_whole_and_noticed_when_cut(tmp_path, container, coding, error):
    wave, path = toys.speechlike(), tmp_path / "clip.wav"  # suffixes lie
    data = toys.write(path, container, coding, wave)
    found = load(path, data)
    assert abs(len(found) - len(wave)) < NEAR
    n = min(len(found), len(wave))
    if error is None:
        assert found.std() == pytest.approx(wave.std(), rel=0.1)
    else:
        np.testing.assert_allclose(found[:n], wave[:n], atol=error)
    middle = load(path, data, start=0.5, end=1.25)
    assert np.array_equal(middle, found[8_000:20_000]) or error is None
    for share in (0.98, 0.7, 0.5, 0.1):
        with pytest.raises(audio.AudioError, match="cut short|damaged|does not decode|no audio"):
            load(path, data[: int(share * len(data))])


@pytest.mark.parametrize(("container", "coding"), [("WAV", "PCM_16"), ("OGG", "VORBIS")])
def test_words_in_a_file_are_no_faults(tmp_path, container, coding):
    words = "Junk truncated Corrupted should be 7: data : 900 (should be 8)"
    with soundfile.SoundFile(
        tmp_path / "a", "w", RATE, 1, format=container, subtype=coding
    ) as file:
        file.title = file.comment = file.artist = words
        file.write(toys.speechlike())
    assert words.encode() in (tmp_path / "a").read_bytes()
    load(tmp_path / "a", (tmp_path / "a").read_bytes())


@pytest.mark.parametrize("size", [0, 1, 3, 12, 44, 60])
def test_what_is_hardly_there_is_refused(tmp_path, size):
    data = toys.write(tmp_path / "a", "WAV", "PCM_16")
    with pytest.raises(audio.AudioError, match="empty|no audio|does not decode|cut short"):
        load(tmp_path / "b", data[:size])


def test_a_hole_and_noise_within_are_noticed_where_the_format_can_tell(tmp_path):
    for container, coding in (("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")):
        data = toys.write(tmp_path / "a", container, coding)
        half, noise = len(data) // 2, random.Random(1).randbytes(600)
        for spoiled in (data[:half] + data[half + 600 :], data[:half] + noise + data[half + 600 :]):
            with pytest.raises(audio.AudioError, match="cut short|does not decode"):
                load(tmp_path / "b", spoiled)


# ---- lengths that are missing or false ----------------------------------------------------------


def lengths(tmp_path):
    """What was done to a header, the bytes, and what is to come out: samples, or words."""
    w, f = (toys.write(tmp_path / "x", c, "PCM_16") for c in ("WAV", "FLAC"))
    a, u = (toys.write(tmp_path / "x", c, "PCM_16") for c in ("AIFF", "AU"))
    r, c = (toys.write(tmp_path / "x", c, "PCM_16") for c in ("RF64", "CAF"))
    s, m = toys.write(tmp_path / "x", "NIST", "PCM_16"), toys.write(tmp_path / "x", "MP3", None)
    w64 = toys.write(tmp_path / "x", "W64", "PCM_16")
    n, more, cut = 2 * RATE, "holds more sound", "cut short"
    put, at = toys.put, toys.after
    data, ssnd, comm, xing = at(w, b"data"), at(a, b"SSND"), at(a, b"COMM", 10), at(m, b"Xing")
    ds64, caf = at(r, b"ds64", 16), at(c, b"data")
    unknown = {0: "0", 2**32 - 1: "all bits", 0x7FFFF000: "2 GiB"}
    for number, name in unknown.items():
        yield f"wav {name}", put(put(w, data, "<I", number), 4, "<I", number), n
        yield f"aiff {name}", put(put(a, ssnd, ">I", number or 8), comm, ">I", number), n
    for number in (0, 2**32 - 1):
        yield f"au {number}", put(u, 8, ">I", number), n
    for number in (0, 2**64 - 1):
        yield f"rf64 {number}", put(put(r, ds64, "<Q", number), ds64 + 8, "<Q", number), n
        yield f"caf {number}", put(c, caf, ">Q", number or 4), n
    yield "wav with bytes that are no whole sample", put(w, data, "<I", 2**32 - 1) + b"\1", n
    yield "sphere without a count", s.replace(b"sample_count", b"sample_c____"), n
    yield "flac 0", toys.flac(f, 0), n
    yield "mp3 without an index", m.replace(b"Xing", bytes(4)), n
    yield "mp3, an index of 0", put(m, xing + 4, ">I", 0), n
    yield "mp3 behind a tag", b"ID3\3\0\0\0\0\1\0" + b"Info" * 32 + m.replace(b"Xing", bytes(4)), n
    frames = int.from_bytes(m[xing + 4 : xing + 8], "big")
    for short in (1_000, n):
        yield f"wav {short} bytes", put(w, data, "<I", short), more
        yield f"au {short} bytes", put(u, 8, ">I", short), more
        yield f"caf {short} bytes", put(c, caf, ">Q", short), more
        yield f"sphere {short}", s.replace(b"-i 32000\n", b"-i %05d\n" % (short // 2)), more
        yield f"w64 {short} bytes", put(w64, at(w64, b"data", 16), "<Q", short), more
        yield f"flac {short - 2_000} samples", toys.flac(f, abs(short - 2_000)), more
    yield "mp3, a frame is not counted", put(m, xing + 4, ">I", frames - 1), n - 576
    for short in (frames // 3, frames - 3):
        yield f"mp3 {short} frames", put(m, xing + 4, ">I", short), more
    for long in (3 * n, BIG - 2**20):
        yield f"wav {long}", put(w, data, "<I", min(long, 0x7FFE0000)), cut
        yield f"aiff {long}", put(put(a, ssnd, ">I", min(long, 0x7FFE0000)), comm, ">I", long), cut
        yield f"flac {long}", toys.flac(f, long), cut
        yield f"sphere {long}", s.replace(b"-i 32000\n", b"-i %d\n" % min(long, 10**8)), cut
    yield "flac 2^36", toys.flac(f, 2**36 - 1), cut
    for many in (frames + 40, 2**31, 2**32 - 1):
        yield f"mp3 {many} frames", put(m, xing + 4, ">I", many), cut
    yield "no samples", toys.write(tmp_path / "x", "WAV", "PCM_16", np.zeros(0)), "no samples"
    empty = toys.write(tmp_path / "x", "WAV", "PCM_16", np.zeros(0))
    yield "no samples, but a chunk", empty + b"LIST\4\0\0\0INFO", "no samples"
    yield "a chunk behind", w + b"LIST\x40\x9c\0\0" + bytes(40_000), n
    for number in (0, 2**64 - 1):
        yield f"w64 {number}", put(w64, at(w64, b"data", 16), "<Q", number), n
    ogg = toys.write(tmp_path / "x", "OGG", "VORBIS")
    yield "ogg, a flipped bit in the last page", put(ogg, len(ogg) - 90, "<B", ogg[-90] ^ 4), cut
    yield "ogg, a tag behind", ogg + b"TAG" + bytes(125), n
    yield "tags behind", m + b"TAG" + bytes(125), n
    yield "zeros behind", w + bytes(5_000), n
    for size in (1_000, 100_000):
        text = b"a word on data: metadata".ljust(size)
        chunk = b"LIST" + len(text).to_bytes(4, "little") + text
        yield f"{size} bytes of text in front", w[: data - 4] + chunk + w[data - 4 :], n
        tag = bytes(size >> 7 * i & 127 for i in (3, 2, 1, 0))
        yield f"{size} bytes of a tag in front", b"ID3\3\0\0" + tag + bytes(size) + m, n


def test_what_decodes_counts_whatever_the_header_says(tmp_path):
    for name, data, expected in lengths(tmp_path):
        tracemalloc.start()
        try:
            found = load(tmp_path / "clip", data)
        except audio.AudioError as error:
            assert isinstance(expected, str) and expected in str(error), (name, error)
        else:
            assert not isinstance(expected, str), (name, len(found))
            slack = 2 * 1152 if "mp3" in name else 2  # without an index padding is not known
            assert 0 <= len(found) - expected <= slack, (name, len(found))
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 64 * 2**20, (name, peak)


def test_spans_of_files_that_do_not_know_their_length(tmp_path):
    data = toys.write(tmp_path / "a", "FLAC", "PCM_16")
    whole = load(tmp_path / "a", data)
    part = load(tmp_path / "b", toys.flac(data, 0), start=0.5, end=1.5)
    np.testing.assert_array_equal(part, whole[8_000:24_000])
    mp3 = toys.write(tmp_path / "m", "MP3", None).replace(b"Xing", bytes(4))
    whole = load(tmp_path / "m", mp3)
    np.testing.assert_array_equal(
        load(tmp_path / "m", mp3, start=0.5, end=1.5), whole[8_000:24_000]
    )
    with pytest.raises(audio.AudioError, match="cut short"):
        load(tmp_path / "m", mp3, start=0.5, end=9.5)


def test_hours_are_refused_with_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "LONGEST", 1 / 3600)
    data = toys.write(tmp_path / "a", "WAV", "PCM_16")
    with pytest.raises(audio.AudioError, match="lasts more than .* hours"):
        load(tmp_path / "a", data)
    assert len(load(tmp_path / "a", data, start=0.5, end=1.0)) == RATE // 2


# ---- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rate", [4_000, 6_103, 8_001, 11_127, 15_999, 16_001, 22_255, 24_414, 44_101, 95_999, 384_000]
)
def test_any_rate_becomes_16_khz(tmp_path, rate):
    hz, seconds = 1_000 if rate > 4_000 else 500, 1.5
    t = np.arange(round(seconds * rate)) / rate
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * hz * t), rate, subtype="FLOAT")
    found = load(tmp_path / "a.wav", (tmp_path / "a.wav").read_bytes())
    assert len(found) == -(-len(t) * RATE // rate)
    expected = 0.3 * np.sin(2 * np.pi * hz * np.arange(len(found)) / RATE)
    np.testing.assert_allclose(found[800:-800], expected[800:-800], atol=2e-4)


def test_odd_rates_are_changed_as_other_methods_do():
    rng = np.random.default_rng(0)
    for rate, top in ((24_414, 7_000), (12_207, 5_300), (48_001, 7_000)):
        wide = rng.standard_normal(2 * rate)
        low = signal.sosfiltfilt(signal.butter(20, top * 0.9, fs=rate, output="sos"), wide)
        found = audio.resample(low, rate)
        other = signal.resample_poly(low, RATE, rate, window=("kaiser", 12.0))
        inner = slice(2_000, -2_000)
        assert np.abs(found - other)[inner].max() < 0.02 * np.abs(other).max()
    usual = audio.resample(low, 48_000)
    np.testing.assert_allclose(
        decoding_free(low, 48_000)[2_000:-2_000], usual[2_000:-2_000], atol=2e-3
    )
    folded = audio.resample(np.sin(2 * np.pi * 9_000 * np.arange(48_001) / 48_001), 48_001)
    assert np.abs(folded[2_000:-2_000]).max() < 1e-5


def decoding_free(wave: np.ndarray, rate: int) -> np.ndarray:
    """The method of odd rates at a usual one."""
    return audio._by_spectrum(np.asarray(wave, np.float32), rate, RATE)


@pytest.mark.parametrize("rate", [0, 1, 25, 3_999, 384_001, 10_000_025, BIG])
def test_rates_that_no_recording_has_are_refused(tmp_path, rate):
    data = toys.write(tmp_path / "a.wav", "WAV", "PCM_16")
    with pytest.raises(audio.AudioError, match="sample rate of|does not decode"):
        load(tmp_path / "a.wav", toys.put(data, 24, "<I", rate))
    with pytest.raises(audio.AudioError, match="Hz"):
        audio.resample(np.zeros(10), rate)


# ---- channels and levels ------------------------------------------------------------------------


def test_opposite_phase_does_not_become_silence(tmp_path):
    wave = toys.speechlike()
    noise = np.random.default_rng(5).standard_normal(len(wave))
    for right, expected in (
        (-wave, wave),
        (-0.9 * wave, wave),  # the louder one
        (-0.98 * wave + 0.002 * noise, wave),
        (-0.99 * wave + 0.1, wave),  # an offset is no sound
        (0.5 * wave, 0.75 * wave),
        (0 * wave, wave / 2),
        (noise / 9, (wave + noise / 9) / 2),
    ):
        both = np.stack([wave, right], axis=1)
        soundfile.write(tmp_path / "s.wav", both, RATE, subtype="FLOAT")
        (tmp_path / "s.wav").touch()
        np.testing.assert_allclose(audio.load(tmp_path / "s.wav"), expected, atol=1e-6)
        facts = measure.measure(tmp_path, ["s.wav"], progress=False)
        assert facts["peak"]["s.wav"] == pytest.approx(np.abs(expected).max(), rel=1e-5)
        assert measure.flags(facts, [2.0]) == [["stereo"]]
    soundfile.write(tmp_path / "z.wav", np.zeros((RATE, 2)), RATE)
    assert not audio.load(tmp_path / "z.wav").any()


@pytest.mark.parametrize("peak", [1.6, 3.0, 3e38, 3.4e38])
def test_a_wrong_scale_is_told_of_when_a_manifest_is_built(tmp_path, peak):
    for name, wave in (("mono", [0.0, peak, -0.1] * 99), ("stereo", [[peak, peak], [0, 0.1]] * 99)):
        soundfile.write(tmp_path / name, np.array(wave), RATE, format="WAV", subtype="FLOAT")
        with pytest.raises(audio.AudioError, match=rf"{name}: .*(full scale|infinity)"):
            load(tmp_path / name, (tmp_path / name).read_bytes())


def test_what_is_loaded_can_be_stored(tmp_path):
    """Resampling overshoots: of a square wave a little below the limit, over it."""
    wave = 1.49 * np.sign(np.sin(2 * np.pi * 441 * np.arange(48_000) / 48_000 + 0.1))
    soundfile.write(tmp_path / "a.wav", wave, 48_000, subtype="FLOAT")
    assert audio.to_int16(audio.load(tmp_path / "a.wav")).min() == -32_768


# ---- mutations ----------------------------------------------------------------------------------


def campaign(folder: Path, seeds: range) -> list[str]:
    """Read mutated files; what went wrong, none if all were read or refused in one line."""
    wrong, path = [], folder / "clip"
    for container, coding, _ in toys.FORMATS:
        whole = toys.write(path, container, coding, toys.speechlike(1.0))
        for seed in seeds:
            what, data = toys.mutate(whole, random.Random(f"{container} {coding} {seed}"))
            try:
                wave = load(path, data)
                assert wave.ndim == 1 and len(wave) and np.abs(wave).max() <= decoding.MAX_OVERSHOOT
                assert not what.startswith("cut") or len(wave) > RATE - NEAR, f"{len(wave)} samples"
            except audio.AudioError:
                pass
            except Exception as error:
                wrong.append(f"{container} {coding} {seed}, {what}: {error!r}")
    return wrong


def test_mutated_files_are_read_or_refused(tmp_path):
    assert campaign(tmp_path, range(10)) == []


@pytest.mark.skipif(not FUZZ, reason="SERLIB_FUZZ says how many mutations of each kind of file")
@pytest.mark.parametrize("first", range(0, FUZZ, 25))
def test_mutated_files_cost_little_time_and_memory(tmp_path, first):
    """In a process of its own, with a limit on both."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))

    command = [sys.executable, __file__, str(tmp_path), str(first)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=limit)
    assert done.returncode == 0, done.stdout + done.stderr[-2_000:]


if __name__ == "__main__":
    where, begin = Path(sys.argv[1]), int(sys.argv[2])
    sys.exit("\n".join(campaign(where, range(begin, begin + 25))) or None)
