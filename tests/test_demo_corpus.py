"""The demo corpus: the same recipe gives the same samples, and the planted answers are there."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from data_manifests.making import manifest as making
from serlib.corpora.demo import corpus, oracle, plan, speech
from serlib.data import acoustics, audio, manifest, splits
from serlib.experiments import floors
from serlib.metrics import measures

VOICE = speech.Voice("en-us", 100, 95, 40, 170)


@pytest.fixture(scope="module")
def table():
    return corpus.load()


def test_a_recipe_gives_the_same_samples_whatever_was_said_before():
    say = lambda text, voice: speech.render(text, voice, noise_seed=3)[0]  # noqa: E731
    other = speech.Voice("en-gb-x-rp", 115, 180, 90, 220)
    first = say("Come on, the garden was unacceptable.", VOICE)
    say("Oh no, this ticket looks alarming to me.", other)
    say("Okay.", VOICE)
    np.testing.assert_array_equal(say("Come on, the garden was unacceptable.", VOICE), first)


def test_a_voice_is_what_it_says():
    low, phones = speech.render("The garden was ordinary, they said.", VOICE)
    high, _ = speech.render(
        "The garden was ordinary, they said.", speech.Voice("en-us", 100, 190, 80, 170)
    )
    fast, _ = speech.render(
        "The garden was ordinary, they said.", speech.Voice("en-us", 100, 95, 40, 260)
    )
    f0 = [np.nanmedian(acoustics.pitch(audio.from_int16(w))) for w in (low, high)]
    assert f0[1] / f0[0] == pytest.approx(2, rel=0.1)
    assert len(fast) < 0.8 * len(low)
    times = [t for t, _ in phones]
    assert times == sorted(times) and times[-1] < len(low) / audio.SAMPLE_RATE
    assert [p for _, p in phones][:2] == ["D", "@2"]  # "the"


def test_an_unknown_voice_is_refused():
    with pytest.raises(speech.SpeechError, match="xx-nowhere"):
        speech.render("Hello.", speech.Voice("xx-nowhere", 100, 100, 40, 170))


def test_tilt_tremor_and_noise_do_what_their_names_say():
    rng = np.random.default_rng(0)
    white = rng.standard_normal(4 * audio.SAMPLE_RATE)
    power = np.abs(np.fft.rfft(speech.tilt(white, 6.0))) ** 2 / np.abs(np.fft.rfft(white)) ** 2
    hz = np.fft.rfftfreq(len(white), 1 / audio.SAMPLE_RATE)
    db = lambda low, high: 10 * np.log10(np.mean(power[(hz > low) & (hz < high)]))  # noqa: E731
    assert db(20, 100) == pytest.approx(0, abs=0.3)
    assert db(7000, 7900) == pytest.approx(6, abs=0.5)
    shaken = speech.tremor(np.ones(audio.SAMPLE_RATE), 0.4)
    assert (shaken.min(), shaken.max()) == pytest.approx((0.6, 1.0))
    assert np.sum((shaken[1:-1] > shaken[:-2]) & (shaken[1:-1] >= shaken[2:])) == 5  # 6 a second
    level = 20 * np.log10(np.sqrt(np.mean(speech.noise(16_000, -50.0, 1) ** 2)))
    assert level == pytest.approx(-50)


def test_loudness_survives_normalization_as_distance_to_the_noise():
    def distance(loudness):
        wave, _ = speech.render("Okay.", VOICE, loudness_db=loudness, noise_dbfs=-45.0)
        level = acoustics.energy_db(audio.normalize(audio.from_int16(wave)))
        return np.percentile(level, 95) - np.percentile(level, 5)

    assert distance(6.0) - distance(-6.0) > 4  # of 12 dB: some percentiles lie in speech


def test_the_committed_manifest_is_what_its_composer_writes(table):
    composed = making.compose()
    assert composed["key"].tolist() == table["key"].tolist()
    for column in ("text", "emotion", "speaker", "pitch_hz", "noise_seed", "cue_rate", "valence"):
        assert composed[column].tolist() == table[column].tolist(), column
    assert manifest.check(table) == []


def test_waveforms_have_the_hashes_of_the_manifest(table, tmp_path):
    for row in table.iloc[::110].to_dict("records"):
        wave, _ = corpus.render(row)
        audio.save(tmp_path / "x.wav", audio.from_int16(wave))
        assert hashlib.sha256((tmp_path / "x.wav").read_bytes()).hexdigest() == row["sha256"]
        assert len(wave) == row["num_frame"]


def test_make_resumes_and_notices_a_wrong_waveform(table, tmp_path, monkeypatch):
    monkeypatch.setenv("SERLIB_HOME", str(tmp_path))
    few = table.iloc[:3].reset_index(drop=True)
    root = corpus.make(few, progress=False)
    assert sorted(p.name for p in root.rglob("*.wav")) == sorted(f"{u}.wav" for u in few["utt_id"])
    (root / "done.json").unlink()  # as if killed before the end
    assert corpus.make(few, progress=False) == root and (root / "done.json").exists()
    few.loc[1, "sha256"] = "0" * 64
    with pytest.raises(RuntimeError, match="1 of 3 waveforms differ.*espeakng-loader"):
        corpus.make(few, progress=False)


def test_talkers_sessions_and_splits_are_disjoint(table):
    assert table["speaker"].nunique() == 40 and set(table["gender"]) == {"female", "male"}
    part = {s: table[table["split"] == s] for s in ("train", "dev", "test")}
    splits.assert_disjoint(*part.values())
    for fold in range(1, 6):
        inside = table["fold"] == fold
        assert not set(table.loc[inside, "speaker"]) & set(table.loc[~inside, "speaker"])
    spoken_by = table["utt_id"].str.rsplit("_", n=1).str[1].str[0]
    assert ((spoken_by == "F") == (table["gender"] == "female")).all()


def test_intended_classes_have_exactly_the_planned_shares(table):
    for _, rows in table.groupby("split"):
        counts = rows["intended"].value_counts().reindex(plan.CLASSES)
        assert np.abs(counts - len(rows) * plan.PRIOR).max() < 1


def test_the_planted_cues_have_the_planned_means(table):
    cues = table[[f"cue_{c}" for c in plan.CUES]].to_numpy(float)
    for i, c in enumerate(plan.CLASSES):
        mine = cues[table["intended"] == c]
        error = np.abs(mine.mean(0) - plan.MEANS[i]) * np.sqrt(len(mine))
        assert error.max() < 4, c  # standard errors
    residual = cues - plan.MEANS[[plan.CLASSES.index(c) for c in table["intended"]]]
    assert residual.std(0) == pytest.approx(np.ones(6), abs=0.06)


def test_confounds_are_planted_and_useless_for_new_talkers(table):
    def information(column):  # of a column about the class, in nats, above its chance level
        labels = table["intended"].to_numpy()
        value = lambda x: metrics_mutual(pd.crosstab(x, labels).to_numpy())  # noqa: E731
        rng = np.random.default_rng(0)
        chance = np.mean([value(rng.permutation(table[column].to_numpy())) for _ in range(20)])
        return value(table[column].to_numpy()) - chance

    assert information("speaker") > 0.1 and information("dialogue") > 0.1
    assert abs(information("noise_seed")) < 0.02  # a control: nothing planted there


def metrics_mutual(counts):
    p = counts / counts.sum()
    outer = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / outer[p > 0])))


def test_rater_consensus_against_a_simulation():
    rng = np.random.default_rng(0)
    exact = oracle.consensus_confusion()
    for e in (0, 4, 7):
        votes = rng.choice(8, (40_000, plan.RATERS), p=oracle.rater_confusion()[e])
        counts = np.stack([(votes == c).sum(1) for c in range(8)], axis=1)
        best = counts.max(1)
        unique = (counts == best[:, None]).sum(1) == 1
        share = np.bincount(counts.argmax(1)[unique], minlength=8) / len(votes)
        assert share == pytest.approx(exact[e], abs=0.01)


def test_word_likelihoods_by_hand():
    words, p = oracle.word_likelihood(plan.INTERJECTIONS)
    assert p.sum(1) == pytest.approx(np.ones(8)) and len(words) == len(set(words)) == 40
    own, other = 0.65 / 5 + 0.35 / 40, 0.35 / 40
    assert p[0, words.index("enough")] == pytest.approx(own)
    assert p[0, words.index("gosh")] == pytest.approx(other)


def test_no_word_is_planted_twice_or_hides_in_another():
    """A chapter exchanges words by replacing text, so each must be found once."""
    cues = [w for lists in (plan.INTERJECTIONS, plan.ADJECTIVES) for c in lists.values() for w in c]
    assert len(cues) == len(set(cues)) and not set(cues) & set(making.TOPICS)
    adjectives = [w for c in plan.ADJECTIVES.values() for w in c]
    rest = [*making.FRAMES, *making.TOPICS, *(w for c in plan.INTERJECTIONS.values() for w in c)]
    assert not [(a, text) for a in adjectives for text in rest if a in text]


def test_reworded_rows_differ_in_their_cue_words_only(table):
    row = table.iloc[3].to_dict()
    new = corpus.reworded(row, "fear")
    assert (new["interjection"], new["adjective"]) == ("watch out", "alarming")
    assert new["text"].startswith("Watch out,") and new["text"].count("alarming") == 1
    old = row["text"].replace(row["adjective"], "alarming").split(",", 1)[1]
    assert new["text"].split(",", 1)[1] == old
    changed = {k for k in row if row[k] is not new[k] and row[k] == row[k] and row[k] != new[k]}
    assert changed == {"text", "interjection", "adjective"}
    assert row["text"] == table.iloc[3]["text"], "the row itself is left alone"
    drawn = {corpus.reworded(row, "fear", np.random.default_rng(i))["adjective"] for i in range(50)}
    assert len(drawn) > 4 and drawn <= set(plan.ADJECTIVES["fear"])


def test_spoken_words_lie_where_the_sound_is(table):
    """Cut out of the wave, an interjection is as the synthesizer says it alone: about as long."""
    row = table.iloc[7].to_dict()
    wave, _ = corpus.render(row)
    words = corpus.spoken_words(row)
    assert words["word"].tolist() == row["text"].split()
    assert (words["end"] > words["start"]).all()
    assert (words["start"].to_numpy()[1:] >= words["end"].to_numpy()[:-1] - 1e-9).all()
    assert words["end"].iloc[-1] <= len(wave) / 16_000
    cues = " ".join(words["word"][words["cue"]]).lower()
    assert cues.replace(",", "").replace(".", "") == f"{row['interjection']} {row['adjective']}"
    comma = int(np.flatnonzero(words["word"].str.endswith(","))[0])
    pause = wave[int(words["end"][comma] * 16_000) : int(words["start"][comma + 1] * 16_000)]
    assert np.abs(pause.astype(float)).mean() < 0.2 * np.abs(wave.astype(float)).mean()


def test_spoken_words_are_none_where_a_word_has_no_sound(table):
    row = table.iloc[7].to_dict()
    assert corpus.spoken_words(row | {"text": row["text"].replace("found", "found ,")}).empty


def test_functionals_tell_little_of_the_words(monkeypatch):
    """All prosody neutral and every word from its class's list: a listener to words is perfect."""
    monkeypatch.setattr(plan, "MEANS", np.zeros_like(plan.MEANS))
    monkeypatch.setattr(plan, "PRIOR", np.full(8, 1 / 8))
    monkeypatch.setattr(plan, "OWN", 1.0)
    spoken = making.compose()
    part = {}
    for split, n in (("train", 24), ("dev", 8), ("test", 24)):
        rows = spoken[spoken["split"] == split].groupby("intended").head(n)
        waves = (audio.from_int16(corpus.render(r)[0]) for r in rows.to_dict("records"))
        labels = rows["intended"].map(plan.CLASSES.index).to_numpy()
        part[split] = np.stack([acoustics.functionals(w) for w in waves]), labels
    heard, truth = part["test"]
    scores, _ = floors.svm(part["train"], part["dev"], heard, 8)
    assert measures.ua(measures.confusion(truth, scores.argmax(1), 8)) < 0.4  # chance: 0.125


def test_posterior_by_hand():
    """One cue and one word, multiplied out with plain numbers."""
    row = pd.DataFrame([{"cue_pitch": 1.0, "interjection": "gosh", "adjective": "slimy"}])
    joint = []
    for i, c in enumerate(plan.CLASSES):
        density = np.exp(-0.5 * (1.0 - plan.MEANS[i, 0]) ** 2)
        said = [0.65 / 5 * (c == "surprise") + 0.35 / 40,
                0.65 / 8 * (c == "disgust") + 0.35 / 64]  # fmt: skip
        joint.append(plan.PRIOR[i] * density * said[0] * said[1])
    expected = np.array(joint) / np.sum(joint) @ oracle.consensus_confusion()
    assert oracle.posterior(row, ("pitch", "words"))[0] == pytest.approx(expected)


def test_more_hearing_never_hurts_and_each_decision_is_best_at_its_own_metric():
    table = oracle.ceilings(30_000)
    assert (table.loc["everything"] > table.drop(index="everything").max() + 0.05).all()
    rows, label = oracle.draw(30_000, seed=1)
    share = np.bincount(label, minlength=8) / len(label)
    p = oracle.posterior(rows)
    score = {
        d: {m: float(getattr(measures, m)(measures.confusion(label, oracle.decide(p, d, share), 8)))
            for m in ("wa", "ua", "macro_f1")}
        for d in ("wa", "ua", "macro_f1")
    }  # fmt: skip
    for m in ("wa", "ua", "macro_f1"):
        assert score[m][m] == max(score[d][m] for d in score), m


def test_the_ceiling_is_one_for_a_listener_without_doubt(monkeypatch):
    monkeypatch.setattr(plan, "MEANS", plan.MEANS * 50 + np.arange(8)[:, None] * 100)
    monkeypatch.setattr(plan, "ACCURACY", 1.0)
    assert oracle.ceilings(2_000).loc["prosody"].min() > 0.999


def test_attribute_ceilings_against_predictions_that_are_tried_out():
    table = oracle.attribute_ceilings(60_000)
    best, plain = table["ccc"], table["ccc of the mean"]
    assert (plain < best).all() and (table < 1).all(axis=None)
    assert best["everything"] > best["words"] > best["prosody"]
    # another way: rate fresh utterances, predict from the intended class, stretch by trial
    rng = np.random.default_rng(5)
    rows, _ = oracle.draw(30_000, seed=4)
    means = np.array([plan.ATTRIBUTES[c] for c in plan.CLASSES])
    score = oracle.log_likelihood(rows, oracle.HEARD["everything"])
    score += np.log(plan.PRIOR * oracle.consensus_confusion().sum(1))
    share = np.exp(score - score.max(1, keepdims=True))
    guess = (share / share.sum(1, keepdims=True) @ means)[:, 0]
    truth = means[rows["intended"], 0] + plan.ATTRIBUTE_SCATTER * rng.standard_normal(len(rows))
    raters = truth + plan.RATER_SCATTER * rng.standard_normal((plan.RATERS, len(rows)))
    truth = np.clip(np.round(raters), 1, 7).mean(0)
    middle = guess.mean()
    tried = [measures.ccc(truth, middle + s * (guess - middle)) for s in np.linspace(0.5, 2, 31)]
    assert max(tried) == pytest.approx(table.loc["everything", "valence"], abs=0.015)


def test_drawn_utterances_know_what_was_intended():
    rows, label = oracle.draw(20_000, seed=2)
    share = np.bincount(rows["intended"], minlength=8) / len(rows)
    agreed = plan.PRIOR * oracle.consensus_confusion().sum(1)
    np.testing.assert_allclose(share, agreed / agreed.sum(), atol=0.02)
    hit = oracle.consensus_confusion()
    np.testing.assert_allclose(
        np.mean(label == rows["intended"]), plan.PRIOR @ np.diag(hit) / agreed.sum(), atol=0.02
    )
