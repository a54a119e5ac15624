from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serlib.records import RecordError, Run


def frame(keys: list[str], **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(keys, name="key"))


def test_predictions_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    n = 2000
    bits = rng.integers(0, 2**64, n, dtype=np.uint64).view(np.float64)  # floats of all magnitudes
    df = frame(
        [f"{i:05d}" for i in range(n)],
        truth=rng.integers(0, 8, n),
        p_0=np.where(np.isfinite(bits), bits, np.nan),
        p_1=rng.random(n).astype(np.float32),
        right=rng.random(n) < 0.5,
        text=rng.choice(["", "NA", "nan", "007", "1.0", "a,b", 'say "x"', "x\ny", "x\r", " é "], n),
    )
    run = Run.open(tmp_path, {}, key="run")
    run.save_predictions("test", df)
    back = run.predictions("test")
    pd.testing.assert_frame_equal(back, df.astype({"p_1": "float64"}), check_exact=True)
    assert back["p_1"].astype(np.float32).equals(df["p_1"])


def test_predictions_of_hostile_keys_and_extreme_numbers(tmp_path):
    df = frame(
        ["001", "1", "nan", "NA", "None", "true", "a,b", "1e5"],
        truth=[-(2**63), 2**63 - 1, 0, -100, 1, 2, 3, 4],
        p=[np.inf, -np.inf, np.nan, 5e-324, -0.0, 1.7976931348623157e308, 0.1, 1 / 3],
    )
    run = Run.open(tmp_path, {}, key="run")
    run.save_predictions("dev", df)
    pd.testing.assert_frame_equal(run.predictions("dev"), df, check_exact=True)
    assert np.signbit(run.predictions("dev")["p"]["None"])


def test_predictions_refuse_what_has_no_exact_form(tmp_path):
    run = Run.open(tmp_path, {}, key="run")
    for bad in (
        frame(["a", "a"], truth=[0, 1]),
        frame([1, 2], truth=[0, 1]),
        frame(["a", "b"], truth=[0, 1]).rename_axis(None),
        frame(["a", "b"], text=["x", None]),
        frame(["a", "b"], votes=[[1], [2]]),
        frame(["a", "b"], n=pd.array([1, None], dtype="Int64")),
    ):
        with pytest.raises(RecordError):
            run.save_predictions("test", bad)
    with pytest.raises(RecordError, match="no predictions for 'test'"):
        run.predictions("test")
