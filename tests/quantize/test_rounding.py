import numpy as np

from drivefoundry.quantize.rounding import rounded


def test_each_row_has_its_own_step():
    w = np.array([[1.0, -0.5, 0.25], [100.0, 50.0, -100.0]], np.float32)
    q, scale = rounded(w, 127)
    assert q.dtype == np.int8
    assert np.abs(q).max(1).tolist() == [127, 127]
    assert (np.abs(q * scale[:, None] - w) <= scale[:, None] / 2 + 1e-6).all()


def test_a_row_of_zeros_stays_zero():
    q, scale = rounded(np.zeros((2, 4), np.float32), 127)
    assert not q.any()
    assert np.isfinite(scale).all()


def test_eleven_bits_are_int16():
    q, _ = rounded(np.array([[1.0, 0.3]], np.float32), 1023)
    assert q.dtype == np.int16
    assert q.tolist() == [[1023, 307]]


def test_outputs_on_correlated_inputs_are_kept_better_than_by_the_nearest_step():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2000, 6))
    x = base @ rng.normal(size=(6, 48)) + 0.05 * rng.normal(size=(2000, 48))
    w = rng.normal(size=(20, 48)).astype(np.float32)

    def lost(moments):
        q, scale = rounded(w, 127, moments)
        return float(((x @ (q * scale[:, None] - w).T) ** 2).mean())

    assert lost(x.T @ x) < 0.3 * lost(None)


def test_an_input_that_is_never_seen_does_no_harm():
    x = np.random.default_rng(0).normal(size=(100, 8))
    x[:, 3] = 0.0
    w = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    q, scale = rounded(w, 127, x.T @ x)
    assert np.abs(q * scale[:, None] - w).max() < 0.1
