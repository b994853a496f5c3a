import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry.curate.duplicates import embedding, near_duplicates
from drivefoundry.curate.quality import thumbnails


def embedded(drive):
    return embedding(drive, thumbnails(drive.video)[0])


def test_the_same_clip_is_a_duplicate_and_another_is_not(make_drive):
    a, b, other = make_drive(120, 0, True), make_drive(120, 0, True), make_drive(120, 3, True)
    e = np.stack([embedded(a), embedded(b), embedded(other)])
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), 1.0, rtol=1e-5)
    assert near_duplicates(e, np.array([0.0, 5.0, 0.0])).tolist() == [1, 1, 2]
    assert near_duplicates(e, np.zeros(3)).tolist() == [0, 0, 2]


def test_equal_pictures_with_other_motion_are_no_duplicates(make_drive):
    a, b = make_drive(120, 0, True), make_drive(120, 0, True)
    ego = b.ego.copy()
    ego[:, 3] = np.linspace(10, 0, 120)
    braking = type(b)(**{**b.__dict__, "ego": ego})
    e = np.stack([embedded(a), embedded(braking)])
    assert near_duplicates(e, np.zeros(2)).tolist() == [0, 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10**6), st.floats(0.5, 0.99))
def test_kept_clips_are_apart_and_dropped_ones_are_near_a_better_one(n, seed, similarity):
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(n, 3)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    priority = rng.integers(0, 5, n).astype(float)
    stands = near_duplicates(e, priority, similarity=similarity)
    kept = np.flatnonzero(stands == np.arange(n))
    close = e @ e.T
    assert (close[np.ix_(kept, kept)] - np.eye(len(kept)) * 2 <= similarity + 1e-5).all()
    for i in set(range(n)) - set(kept):
        assert stands[i] in kept
        assert close[i, stands[i]] > similarity - 1e-5
        assert priority[stands[i]] >= priority[i]


def test_many_clips_in_blocks():
    rng = np.random.default_rng(1)
    e = rng.normal(size=(3000, 32)).astype(np.float32)
    e[2500:] = e[:500]
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    stands = near_duplicates(e, np.zeros(3000))
    assert stands[2500:].tolist() == list(range(500))
    assert (stands[:2500] == np.arange(2500)).all()
    assert near_duplicates(np.zeros((0, 0), np.float32), np.zeros(0)).shape == (0,)
