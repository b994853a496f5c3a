"""Batches: the right samples in the right order, mirrored consistently, for any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import BODY, toy_book, toy_episodes

from drivefoundry.model.text import PAD, TextCodec, train_tokenizer
from drivefoundry.train.config import Augment
from drivefoundry.train.dataset import GREY, EpisodeDataset, Sampler, batches, shifted
from drivefoundry_car.vehicle.codec import decode, integrate_controls

EPISODES = [toy_episodes(50, 1), toy_episodes(30, 2, text=False)]
BOOK = toy_book()
TEXT = TextCodec(train_tokenizer(EPISODES[0].text))
DATASET = EpisodeDataset.of(EPISODES, BOOK, TEXT, 10)
PLAIN = Augment(flip=0.0, brightness_jitter=0.0, history_dropout=0.0, text=0.0)


def test_every_sample_once_an_epoch():
    sampler = Sampler(80, 3)
    assert sorted(sampler.rows(0, 80)) == list(range(80))
    assert np.array_equal(sampler.rows(70, 20), np.concatenate([sampler.rows(70, 10), sampler.rows(80, 10)]))
    assert not np.array_equal(sampler.rows(0, 80), sampler.rows(80, 80))


def test_plain_batch_is_the_samples():
    [batch] = batches(DATASET, Sampler(80, 0), 2, 16, PLAIN)
    rows = Sampler(80, 0).rows(32, 16)
    assert np.array_equal(batch.frames["front"].numpy(), DATASET.pictures(rows)["front"])
    assert np.array_equal(batch.tokens.numpy(), DATASET.tokens[rows])
    first = rows[rows < 50][0]
    wanted = EPISODES[0].pictures(slice(first, first + 1))["front"]
    assert np.array_equal(DATASET.pictures(np.array([first]))["front"], wanted)
    last = rows[rows >= 50][0]
    wanted = EPISODES[1].pictures(slice(last - 50, last - 49))["front"]
    assert np.array_equal(DATASET.pictures(np.array([last]))["front"], wanted)


def test_mirrored_batch_is_the_mirrored_world():
    routed = [
        replace(e, route=np.random.default_rng(5).normal(size=e.route.shape).astype(np.float32)) for e in EPISODES
    ]
    dataset = EpisodeDataset.of(routed, BOOK, TEXT, 10)
    sampler = Sampler(80, 0)
    plain = batches(dataset, sampler, 0, 16, replace(PLAIN, text=1.0))
    flipped = batches(dataset, sampler, 0, 16, replace(PLAIN, text=1.0, flip=1.0))
    for a, b in zip(plain, flipped, strict=True):
        assert torch.equal(a.frames["front"].flip(3), b.frames["front"])
        assert torch.equal(a.ego * torch.tensor([1.0, -1.0, 1.0]), b.ego)
        assert torch.equal(a.route[:, [1, 3, 5]], -b.route[:, [1, 3, 5]])
        assert torch.equal(a.route[:, [0, 2, 4, 6, 7, 8, 9, 10, 11]], b.route[:, [0, 2, 4, 6, 7, 8, 9, 11, 10]])
        speed = a.ego[:, -1, 0].numpy()
        there, back = (decode(x.tokens.numpy(), BOOK, speed) for x in (a, b))
        assert np.abs(there * [1.0, -1.0, -1.0] - back).max() < 1e-4
        assert torch.equal(b.target.argmax(-1), b.tokens)
    assert plain[0].text is not None
    assert flipped[0].text is not None
    for said, mirrored in zip(*(TEXT.decode(x[0].text.numpy()) for x in (plain, flipped)), strict=True):
        assert mirrored == said.replace("left", "@").replace("right", "left").replace("@", "right")


def test_ranks_share_the_steps_samples():
    augment = Augment()
    whole = batches(DATASET, Sampler(80, 7), 3, 16, augment)
    parts = [batches(DATASET, Sampler(80, 7), 3, 16, augment, rank, 2) for rank in range(2)]
    for i, batch in enumerate(whole):
        shares = [p[i] for p in parts]
        assert sum(map(len, shares)) == len(batch)
        for field in ("frames", "tokens", "light", "ego"):
            mine, *theirs = (b.frames["front"] if field == "frames" else getattr(b, field) for b in (batch, *shares))
            mine = sorted(x.numpy().tobytes() for x in mine)
            theirs = sorted(x.numpy().tobytes() for part in theirs for x in part)
            assert mine == theirs, field
        assert {s.action_sum for s in shares} == {batch.action_sum}


def test_history_is_forgotten_but_never_the_present():
    [batch] = batches(DATASET, Sampler(80, 0), 0, 40, replace(PLAIN, history_dropout=0.5))
    gone = (batch.ego[:, :-1] == 0).all((1, 2))
    assert 10 <= int(gone.sum()) <= 30
    assert (batch.ego[:, -1, 2] == 1).all()


def test_shaken_pictures_move_together_and_blinded_ones_are_grey():
    [plain] = batches(DATASET, Sampler(80, 7), 3, 16, PLAIN)
    [shaken] = batches(DATASET, Sampler(80, 7), 3, 16, replace(PLAIN, max_shift_px=8))
    [blind] = batches(DATASET, Sampler(80, 7), 3, 16, replace(PLAIN, image_dropout=0.5))
    moved = 0
    for a, b in zip(plain.frames["front"].numpy(), shaken.frames["front"].numpy(), strict=True):
        fits = [
            (d, r) for d in range(-4, 5) for r in range(-8, 9) if np.array_equal(shifted(a, d, r), b)
        ]  # fmt: skip
        assert fits, "both pictures are shifted alike"
        moved += fits[0] != (0, 0)
    assert moved > 8
    grey = (blind.frames["front"] == GREY).flatten(1).all(1)
    assert 2 < grey.sum() < 14
    assert torch.equal(blind.frames["front"][~grey], plain.frames["front"][~grey])
    ahead = np.arange(24, dtype=np.uint8).reshape(1, 4, 6, 1).repeat(2, 0).repeat(3, 3)
    assert shifted(ahead, 1, 2)[0, :, :, 0].tolist() == [[0, 0, 0, 1, 2, 3]] * 2 + [
        [6, 6, 6, 7, 8, 9],
        [12, 12, 12, 13, 14, 15],
    ]


def test_only_samples_with_reasoning_carry_it():
    talking, silent = batches(DATASET, Sampler(80, 0), 0, 40, replace(PLAIN, text=0.5))
    assert talking.text is not None
    assert (talking.text[:, 0] != PAD).all()
    assert silent.text is None
    assert len(talking) <= 20
    assert len(talking) + len(silent) == 40


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(ValueError, match="none given"):
        EpisodeDataset.of([], BOOK, None, 10)


def test_a_flow_head_gets_controls_and_mirrored_ones_of_mirrored_samples():
    dataset, sampler = EpisodeDataset.of(EPISODES, BOOK, TEXT, 10, action="flow"), Sampler(80, 0)
    [plain], [flipped] = (batches(dataset, sampler, 0, 16, replace(PLAIN, flip=f)) for f in (0.0, 1.0))
    assert plain.target.shape == (16, 8, 2)
    there, back = (integrate_controls(b.target.numpy(), b.ego[:, -1, 0].numpy()) for b in (plain, flipped))
    assert np.abs(there * [1.0, -1.0, -1.0] - back).max() < 1e-4
    futures = np.concatenate([e.future for e in EPISODES])[sampler.rows(0, 16)]
    assert np.abs(there - futures)[..., :2].max() < 0.2
    assert plain.noise_seed == flipped.noise_seed != batches(dataset, sampler, 1, 16, PLAIN)[0].noise_seed


def test_mirrored_cameras_change_sides_and_one_sided_ones_are_never_mirrored():
    side = replace(BODY.cameras[0], x=0.8, y=0.4, yaw=1.0, name="left")
    body = replace(BODY, cameras=(BODY.cameras[0], side, replace(side, y=-0.4, yaw=-1.0, name="right")))
    e = EPISODES[0]
    shown = {name: np.roll(e.frames["front"], k, 0) for k, name in enumerate(body.pictures)}
    seen = replace(e, frames=shown, frame_index=e.frame_index.repeat(3, 1), embodiment=body)
    sampler = Sampler(len(e), 0)
    [plain], [mirrored] = (
        batches(EpisodeDataset.of([seen], BOOK, None, 10), sampler, 0, 16, replace(PLAIN, flip=f)) for f in (0, 1)
    )
    for name, partner in (("front", "front"), ("left", "right"), ("right", "left")):
        assert torch.equal(mirrored.frames[name], plain.frames[partner].flip(3))
    one_sided = replace(body, cameras=body.cameras[:2])
    seen = replace(
        seen, frames={n: shown[n] for n in ("front", "left")}, frame_index=seen.frame_index[:, :2], embodiment=one_sided
    )
    [plain], [mirrored] = (
        batches(EpisodeDataset.of([seen], BOOK, None, 10), sampler, 0, 16, replace(PLAIN, flip=f)) for f in (0, 1)
    )
    assert torch.equal(mirrored.frames["left"], plain.frames["left"])
    assert torch.equal(mirrored.tokens, plain.tokens)


def test_episodes_of_two_vehicles_do_not_mix():
    van = replace(EPISODES[1], embodiment=replace(BODY, name="van", length=5.9))
    with pytest.raises(ValueError, match=r"of two embodiments \(name is van, not car\)"):
        EpisodeDataset.of([EPISODES[0], van], BOOK, None, 10)
