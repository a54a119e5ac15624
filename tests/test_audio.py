"""Waveforms in and out, pitch, spectra, functionals."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from scipy import signal

from serlib.data import acoustics, audio

RATE = audio.SAMPLE_RATE


def tone(hz: float, seconds: float = 1.0, rate: int = RATE, level: float = 0.3) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def voice(hz: np.ndarray, formants: tuple = ((700, 80), (1200, 90), (2600, 120))) -> np.ndarray:
    """A pulse train that follows hz (N,), through three resonances: speech-like, known pitch."""
    phase = np.cumsum(hz) / RATE
    wave = np.diff(np.floor(phase), prepend=0.0)
    for center, width in formants:
        radius = np.exp(-np.pi * width / RATE)
        angle = 2 * np.pi * center / RATE
        wave = signal.lfilter([1], [1, -2 * radius * np.cos(angle), radius**2], wave)
    return 0.1 * wave / wave.std()


# ---- load ---------------------------------------------------------------------------------------


def test_load_returns_the_samples_of_a_plain_file(tmp_path):
    wave = tone(200)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    loaded = audio.load(tmp_path / "a.wav")
    assert loaded.dtype == np.float32 and loaded.shape == (RATE,)
    assert np.abs(loaded - wave).max() <= 1 / 32_768


def test_channels_are_averaged_or_picked(tmp_path):
    left, right = tone(200), tone(300)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(tmp_path / "s.wav"), (left + right) / 2, atol=1e-6)
    np.testing.assert_allclose(audio.load(tmp_path / "s.wav", channel=1), left, atol=1e-6)
    np.testing.assert_allclose(audio.load(tmp_path / "s.wav", channel=2), right, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_other_rates_become_16_khz(tmp_path, rate):
    hz = 1_000
    soundfile.write(tmp_path / "r.wav", tone(hz, 1, rate), rate, subtype="FLOAT")
    loaded = audio.load(tmp_path / "r.wav")
    assert abs(len(loaded) - RATE) <= 1
    inner = slice(1_000, -1_000)  # the filter rings at the cut ends
    np.testing.assert_allclose(loaded[inner], tone(hz, len(loaded) / RATE)[inner], atol=1e-4)


def test_resampling_keeps_7_khz_and_removes_what_would_fold_back():
    inner = slice(2_000, -2_000)
    kept = audio.resample(tone(7_000, 1, 48_000), 48_000)[inner]
    np.testing.assert_allclose(kept, tone(7_000)[inner], atol=1e-4)
    folded = audio.resample(tone(9_000, 1, 48_000), 48_000)[inner]
    assert np.abs(folded).max() < 1e-5
    # independent design: scipy's polyphase filter, in the band both leave alone
    rng = np.random.default_rng(0)
    low = signal.sosfiltfilt(
        signal.butter(8, 4_000, fs=48_000, output="sos"), rng.standard_normal(48_000)
    )
    other = signal.resample_poly(low, 1, 3)
    assert np.abs(audio.resample(low, 48_000) - other)[inner].max() < 0.01 * np.abs(other).max()


@pytest.mark.parametrize(
    ("kind", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)]
)
def test_the_container_is_known_by_its_content(tmp_path, kind, subtype):
    path = tmp_path / "misnamed.wav"
    soundfile.write(path, tone(200), RATE, format=kind, subtype=subtype)
    loaded = audio.load(path)
    assert abs(len(loaded) - RATE) < 0.1 * RATE
    assert np.nanmedian(acoustics.pitch(loaded)) == pytest.approx(200, rel=0.01)


def test_a_wav_named_raw_is_still_a_wav(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(200), RATE)
    (tmp_path / "a.wav").rename(tmp_path / "a.raw")
    assert len(audio.load(tmp_path / "a.raw")) == RATE


def test_start_and_end_cut_the_span_at_the_files_own_rate(tmp_path):
    ramp = np.linspace(-0.5, 0.5, RATE)
    soundfile.write(tmp_path / "ramp.wav", ramp, RATE, subtype="FLOAT")
    cut = audio.load(tmp_path / "ramp.wav", start=0.25, end=0.5)
    np.testing.assert_allclose(cut, ramp[4_000:8_000], atol=1e-6)
    np.testing.assert_allclose(
        audio.load(tmp_path / "ramp.wav", start=0.9), ramp[14_400:], atol=1e-6
    )
    soundfile.write(tmp_path / "high.wav", tone(100, 1, 48_000), 48_000)
    assert len(audio.load(tmp_path / "high.wav", start=0.1, end=0.35)) == 4_000


def test_an_end_rounded_up_by_half_a_millisecond_is_the_end_of_the_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(200), RATE)
    assert len(audio.load(tmp_path / "a.wav", start=0.5, end=1.0005)) == RATE // 2


@pytest.mark.parametrize(
    ("start", "end"),
    [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.5), (0, 1.1), (2, None), (np.nan, 0.5), (0.5, 0.5 + 1e-7)],
)
def test_a_span_outside_the_file_is_refused(tmp_path, start, end):
    soundfile.write(tmp_path / "a.wav", tone(200), RATE)
    with pytest.raises(audio.AudioError, match=r"a\.wav.*1\.000 s.*seconds"):
        audio.load(tmp_path / "a.wav", start=start, end=end)


@pytest.mark.parametrize("channel", [0, -1, 2])
def test_a_channel_outside_the_file_is_refused(tmp_path, channel):
    soundfile.write(tmp_path / "mono.wav", tone(200), RATE)
    with pytest.raises(audio.AudioError, match=rf"mono\.wav.*channel {channel} of 1"):
        audio.load(tmp_path / "mono.wav", channel=channel)


def write_text(path):
    path.write_text("this is a transcript, not audio\n" * 40)


def write_truncated_flac(path):
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, RATE), RATE, format="FLAC")
    path.write_bytes(path.read_bytes()[:4_000])


def write_float(value):
    def write(path):
        wave = tone(200)
        wave[123] = value
        soundfile.write(path, wave, RATE, subtype="FLOAT")

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no such file"),
        (lambda path: path.touch(), "empty"),
        (write_text, "audio"),
        (lambda path: path.write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt "), "audio"),
        (write_truncated_flac, "audio"),
        (lambda path: soundfile.write(path, np.zeros(0), RATE), "no samples"),
        (write_float(np.nan), "NaN"),
        (write_float(-np.inf), "NaN or infinity"),
    ],
)
def test_every_unusable_file_is_named_with_its_reason(tmp_path, write, message):
    path = tmp_path / "clip.wav"
    write(path)
    with pytest.raises(audio.AudioError, match=rf"clip\.wav: .*{message}"):
        audio.load(path)


# ---- save, 16 bits, normalize -------------------------------------------------------------------


def test_save_then_load_is_exact_for_16_bit_audio(tmp_path):
    codes = np.array([-32_768, -1, 0, 1, 32_767], dtype=np.int16)
    audio.save(tmp_path / "a.wav", audio.from_int16(codes))
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert (audio.to_int16(audio.load(tmp_path / "a.wav")) == codes).all()


def test_a_failed_save_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    audio.save(tmp_path / "a.wav", tone(200))
    before = (tmp_path / "a.wav").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(audio.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        audio.save(tmp_path / "a.wav", tone(300))
    assert (tmp_path / "a.wav").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_save_refuses_what_would_clip(tmp_path):
    with pytest.raises(audio.AudioError, match=r"a\.wav.*clip"):
        audio.save(tmp_path / "a.wav", np.array([0.0, 1.001]))
    assert not any(tmp_path.iterdir())


def test_to_int16_saturates_overshoot_but_refuses_a_wrong_scale():
    assert audio.to_int16(np.array([1.2, -1.2])).tolist() == [32_767, -32_768]
    with pytest.raises(audio.AudioError, match="Scale"):
        audio.to_int16(np.array([20_000.0]))


@pytest.mark.parametrize(
    "bad", [np.zeros(0), np.zeros((2, 100)), np.array([0.0, np.nan]), np.float32(1)]
)
@pytest.mark.parametrize(
    "function",
    [audio.to_int16, audio.normalize, acoustics.log_mel, acoustics.mfcc, acoustics.pitch,
     acoustics.energy_db, acoustics.functionals],
)  # fmt: skip
def test_no_function_accepts_what_is_not_a_wave(function, bad):
    with pytest.raises(audio.AudioError):
        function(bad)


def test_normalize_ignores_gain_and_offset_and_keeps_silence_silent():
    wave = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    normal = audio.normalize(wave)
    assert normal.dtype == np.float32
    assert normal.mean() == pytest.approx(0, abs=1e-6) and normal.std() == pytest.approx(
        1, abs=1e-4
    )
    np.testing.assert_allclose(audio.normalize(3 * wave + 0.2), normal, atol=1e-4)
    for value in (0.0, 0.1, -1.0):
        assert (audio.normalize(np.full(1_000, value)) == 0).all()
    faint = audio.normalize(1e-5 * np.sign(wave))  # variance 1e-10 against the 1e-7 added to it
    assert faint.std() == pytest.approx(1e-5 / np.sqrt(1.001e-7), rel=1e-3)


# ---- frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 159, 160, 161, 399, 400, 16_000])
def test_all_frame_features_share_one_grid(n):
    wave = np.random.default_rng(n).uniform(-1, 1, n)
    frames = 1 + n // 160
    assert acoustics.pitch(wave).shape == acoustics.energy_db(wave).shape == (frames,)
    assert acoustics.log_mel(wave, 40).shape == (frames, 40)
    assert acoustics.mfcc(wave, 20).shape == (frames, 20)


def test_frames_are_centered_on_their_time():
    wave = np.zeros(RATE)
    wave[8_000] = 1.0  # 0.5 s: frame 50
    assert acoustics.log_mel(wave).sum(axis=1).argmax() == 50
    heard = np.flatnonzero(acoustics.energy_db(wave) > -90)
    assert heard.tolist() == [49, 50, 51]


def slaney_mel(hz: np.ndarray) -> np.ndarray:
    return np.where(
        hz < 1_000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1_000) / np.log(6.4)
    )


def test_log_mel_against_its_definition_written_out():
    wave = np.random.default_rng(1).standard_normal(1_000) * 0.1
    padded = np.concatenate([np.zeros(256), wave, np.zeros(256)])
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)  # Hann, centered
    grid = np.linspace(0, 8_000, 100_001)
    marks = np.interp(np.linspace(0, slaney_mel(np.array(8_000.0)), 82), slaney_mel(grid), grid)
    bins = np.arange(257) * RATE / 512
    expected = np.empty((7, 80))
    for t in range(7):
        power = np.abs(np.fft.rfft(padded[160 * t : 160 * t + 512] * window)) ** 2
        for m in range(80):
            low, center, high = marks[m : m + 3]
            triangle = np.minimum((bins - low) / (center - low), (high - bins) / (high - center))
            area = np.maximum(triangle, 0) * 2 / (high - low)
            expected[t, m] = np.log(max(power @ area, 1e-10))
    np.testing.assert_allclose(acoustics.log_mel(wave), expected, atol=2e-3)


def test_log_mel_of_a_tone_peaks_at_its_band_and_silence_is_the_floor():
    centers = np.interp(
        np.linspace(0, slaney_mel(np.array(8_000.0)), 82)[1:-1],
        slaney_mel(np.arange(8_001.0)),
        np.arange(8_001.0),
    )
    for hz in (300, 1_000, 4_000):
        band = acoustics.log_mel(tone(hz))[50].argmax()
        assert band == np.abs(centers - hz).argmin()
    assert np.allclose(acoustics.log_mel(np.zeros(1_600)), np.log(1e-10))


def test_mfcc_is_the_cosine_transform_of_log_mel():
    wave = np.random.default_rng(2).standard_normal(4_000) * 0.1
    mel = acoustics.log_mel(wave).astype(np.float64)
    m = np.arange(80)
    for k in (0, 1, 5, 12):
        scale = np.sqrt((1 if k == 0 else 2) / 80)
        basis = scale * np.cos(np.pi * k * (m + 0.5) / 80)
        np.testing.assert_allclose(acoustics.mfcc(wave)[:, k], mel @ basis, rtol=1e-3, atol=1e-3)
    louder = acoustics.mfcc(2 * wave) - acoustics.mfcc(wave)
    np.testing.assert_allclose(louder[:, 0], np.sqrt(80) * np.log(4), rtol=1e-4)  # level only in c0
    np.testing.assert_allclose(louder[:, 1:], 0, atol=1e-3)


def test_energy_is_the_level_in_db_up_to_the_edges():
    level = acoustics.energy_db(tone(400, level=1.0))
    np.testing.assert_allclose(level, 10 * np.log10(0.5), atol=0.05)
    np.testing.assert_allclose(
        acoustics.energy_db(0.1 * tone(400, level=1.0)) - level, -20, atol=1e-3
    )
    assert (acoustics.energy_db(np.zeros(1_000)) == -100).all()


# ---- pitch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr_db", [40, 10])
@pytest.mark.parametrize("hz", [80, 97.3, 120, 155, 200, 261.6, 330, 400])
def test_pitch_of_tones_and_voices_in_noise(hz, snr_db):
    rng = np.random.default_rng(int(hz))
    for clean in (tone(hz), voice(np.full(RATE, float(hz)))):
        noise = rng.standard_normal(RATE) * clean.std() * 10 ** (-snr_db / 20)
        found = acoustics.pitch(clean + noise)[5:-5]
        assert np.isfinite(found).mean() > 0.98
        wrong = np.abs(found[np.isfinite(found)] / hz - 1) > 0.03
        assert wrong.mean() < 0.02
        assert np.nanmedian(found) == pytest.approx(hz, rel=0.005)


def test_pitch_follows_a_glide():
    hz = np.linspace(120, 300, 2 * RATE)
    found = acoustics.pitch(voice(hz))
    truth = hz[np.minimum(np.arange(len(found)) * 160, len(hz) - 1)]
    good = np.abs(found / truth - 1) < 0.03
    assert good[5:-5].mean() > 0.97


def test_noise_silence_and_hiss_far_below_the_voice_are_unvoiced():
    rng = np.random.default_rng(3)
    assert np.isfinite(acoustics.pitch(0.1 * rng.standard_normal(3 * RATE))).mean() < 0.01
    for constant in (0.0, 0.3):
        assert np.isnan(acoustics.pitch(np.full(RATE, constant))).all()
    wave = np.concatenate([tone(150), 1e-3 * tone(150), 0.02 * rng.standard_normal(RATE)])
    voiced = np.isfinite(acoustics.pitch(wave))
    assert voiced[5:95].all() and not voiced[110:190].any() and not voiced[210:290].any()


def test_pitch_does_not_depend_on_gain_offset_or_sign():
    wave = voice(np.full(RATE, 180.0))
    found = acoustics.pitch(wave)
    for other in (0.1 * wave, -wave, wave + 0.1):
        np.testing.assert_allclose(acoustics.pitch(other)[3:-3], found[3:-3], rtol=1e-3)


# ---- functionals --------------------------------------------------------------------------------


def value(wave: np.ndarray, name: str) -> float:
    return float(acoustics.functionals(wave)[acoustics.FUNCTIONAL_NAMES.index(name)])


def test_functionals_have_one_unique_name_each():
    assert len(set(acoustics.FUNCTIONAL_NAMES)) == len(acoustics.FUNCTIONAL_NAMES) == 6 * 28 + 2
    vector = acoustics.functionals(tone(150))
    assert vector.shape == (len(acoustics.FUNCTIONAL_NAMES),) and vector.dtype == np.float32


def test_functionals_of_a_glide_by_hand():
    seconds = np.arange(2 * RATE) / RATE
    wave = voice(150 * np.exp(0.3 * (seconds - 1)))  # ln(pitch / 150) = 0.3 (t - 1)
    assert value(wave, "log_pitch_slope") == pytest.approx(0.3, abs=0.01)
    assert value(wave, "log_pitch_p50") == pytest.approx(0, abs=0.01)
    assert value(wave, "log_pitch_p5") == pytest.approx(-0.27, abs=0.02)
    assert value(wave, "log_pitch_p95") == pytest.approx(0.27, abs=0.02)
    assert value(wave, "log_pitch_std") == pytest.approx(0.6 / np.sqrt(12), abs=0.01)
    assert value(wave, "voiced_share") > 0.97
    assert value(wave, "duration") == 2


def test_the_slope_of_pitch_knows_how_long_a_pause_was():
    low, high = (voice(np.full(RATE // 2, hz)) for hz in (100.0, 200.0))
    for pause in (0.2, 1.0):
        wave = np.concatenate([low, np.zeros(round(pause * RATE)), high])
        seconds = np.concatenate([np.linspace(0, 0.5, 50), np.linspace(0, 0.5, 50) + 0.5 + pause])
        expected = np.polyfit(seconds, np.repeat(np.log([100, 200]), 50), 1)[0]
        assert value(wave, "log_pitch_slope") == pytest.approx(expected, rel=0.05)


def test_functionals_see_level_and_its_slope():
    fade = tone(150, 2) * 10 ** (-10 * np.arange(2 * RATE) / RATE / 20)  # 10 dB a second down
    assert value(fade, "energy_db_slope") == pytest.approx(-10, abs=0.2)
    quieter = value(0.5 * tone(150), "energy_db_mean") - value(tone(150), "energy_db_mean")
    assert quieter == pytest.approx(20 * np.log10(0.5), abs=0.01)


def test_mfcc_columns_of_the_functionals_are_those_of_mfcc():
    wave = voice(np.linspace(120, 240, RATE))
    cepstrum = acoustics.mfcc(wave)
    for i in (0, 7, 12):
        assert value(wave, f"mfcc_{i}_mean") == pytest.approx(cepstrum[:, i].mean(), abs=1e-3)
        assert value(wave, f"mfcc_{i}_std") == pytest.approx(cepstrum[:, i].std(), abs=1e-3)
    # a delta is (Σ_k k (c[t+k] - c[t-k])) / 10 for k = 1, 2, edges repeated
    c = np.pad(cepstrum[:, 3], 2, mode="edge")
    delta = (c[3:-1] - c[1:-3] + 2 * (c[4:] - c[:-4])) / 10
    assert value(wave, "delta_3_std") == pytest.approx(delta.std(), rel=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(1),
        np.ones(1),
        np.zeros(RATE),
        np.full(RATE, 0.5),
        np.full(159, -1.0),
        np.sign(tone(150)),
        np.sign(np.random.default_rng(0).standard_normal(400)),
        1e-8 * tone(150),
        1e4 * tone(150),
        np.eye(1, 5_000, 2_500)[0],
    ],
    ids=["zero", "one", "silence", "dc", "short", "clipped", "bits", "faint", "loud", "click"],
)
def test_functionals_are_finite_whatever_the_wave(wave):
    assert np.isfinite(acoustics.functionals(wave)).all()


def test_unvoiced_clips_get_neutral_pitch():
    names = [name for name in acoustics.FUNCTIONAL_NAMES if name.startswith("log_pitch")]
    assert [value(np.zeros(RATE), name) for name in names] == [0.0] * 6
    assert value(np.zeros(RATE), "voiced_share") == 0
