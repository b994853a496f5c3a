"""Clips of a folder of drives arrive in a real store over the real service."""

import json

import numpy as np
import pytest

from drivefoundry.clips.store import ClipStore
from drivefoundry.curate.curated import origins_in
from drivefoundry.roadmap import make_map, save_map
from drivefoundry.stages.ingest import campaigns_of, send_home, write_json
from drivefoundry_car.log import write_drive


def recorded(folder, make_drive, release="", cars=2):
    """Recordings, all but the first with a takeover in them, and the map they name."""
    road = make_map(lanes=[np.array([[0.0, 0], [100, 0]])])
    for sub in ("drives", "maps"):
        (folder / sub).mkdir(parents=True)
    (folder / "maps" / f"{road.id}.safetensors").write_bytes(save_map(road))
    for seed in range(cars):
        drive = make_drive(steps=600, seed=seed, frames=True, map=road.id)
        drive.meta.update(drive=f"drive-{seed}", release=release)
        drive.takeover[300:330] = seed > 0
        drive.engaged[300:330] = seed == 0
        write_drive(folder / "drives" / f"{seed}.mcap", drive)
    return road


def test_clips_travel_and_come_out_the_same_twice(tmp_path, make_drive):
    road = recorded(tmp_path / "fleet", make_drive)
    said = []
    for name in ("a", "b"):
        out = tmp_path / name
        out.mkdir()
        said.append(send_home(tmp_path / "fleet", str(tmp_path / "store"), 1, out, campaigns_of("")))
    home = json.loads((tmp_path / "a" / "clips.json").read_text())
    assert home == json.loads((tmp_path / "b" / "clips.json").read_text())
    assert 0 < said[0]["clips"] == len(home["clips"])
    assert said[0]["sent_bytes"] < said[0]["recorded_bytes"]
    assert any("takeover" in campaign for campaign in home["campaigns"])
    store = ClipStore(str(tmp_path / "store"))
    assert store.get_map(road.id) == save_map(road)
    assert {store.drive(i, video=False).meta["map"] for i in home["clips"]} == {road.id}


@pytest.mark.parametrize("mixed", [False, True])
def test_the_order_of_clips_does_not_depend_on_their_bytes(tmp_path, make_drive, mixed):
    """An id changes with the name of the release that drove; the order of samples must not."""
    orders = []
    for i in range(8):
        recorded(tmp_path / f"fleet-{i}", make_drive, release=str(i), cars=4)
        out, store = tmp_path / str(i), str(tmp_path / "store")
        out.mkdir()
        send_home(tmp_path / f"fleet-{i}", store, 1, out, campaigns_of(""), mixed=mixed)
        ids = json.loads((out / "clips.json").read_text())["clips"]
        origins = origins_in(store, ids)
        orders.append([(origins[i].drive, origins[i].t0) for i in ids])
    assert len(set(orders[0])) > 2
    assert all(order == orders[0] for order in orders)
    assert (orders[0] == sorted(orders[0])) != mixed


def test_json_is_whole_or_not_there(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": [1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1.5], "b": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_the_cars_have_a_runs_own_campaigns_besides(tmp_path, make_drive):
    recorded(tmp_path / "fleet", make_drive)
    own = tmp_path / "mine.toml"
    own.write_text(
        "[mine]\nrule = 'speed > 5 m/s for 3 s'\npriority = 500\nbefore_s = 1\nafter_s = 4\n"
        "[takeover]\nrule = 'takeover for 60 s'\npriority = 1\n"
    )
    (tmp_path / "out").mkdir()
    said = send_home(tmp_path / "fleet", str(tmp_path / "store"), 1, tmp_path / "out", campaigns_of(str(own)))
    assert said["campaigns"]["mine"] == 2
    assert "takeover" not in said["campaigns"]
    assert {"mine", "hard_brake", "evaluation"} < {c.name for c in campaigns_of(str(own))}
    with pytest.raises(ValueError, match=r"none\.toml: no such file"):
        campaigns_of("none.toml")


def test_a_budget_keeps_the_most_valuable_and_shipped_campaigns_have_none(tmp_path, make_drive):
    assert {c.bytes_per_day for c in campaigns_of("")} == {None}  # clips of exam and default run are all uploaded
    recorded(tmp_path / "fleet", make_drive)
    own = tmp_path / "mine.toml"
    own.write_text(
        "[steady]\nrule = 'speed > 5 m/s for 3 s'\npriority = 500\nbefore_s = 1\nafter_s = 4\ncooldown_s = 5\n"
        "[much]\nrule = 'speed > 5 m/s for 8 s'\npriority = 400\nbefore_s = 1\nafter_s = 4\nbytes_per_day = 10\n"
    )
    said = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        said[name] = send_home(
            tmp_path / "fleet", str(tmp_path / name / "s"), 1, tmp_path / name, campaigns_of(str(own))
        )
        assert (said[name]["campaigns"]["steady"], said[name]["over_budget"]) == (2, 2)
        assert "much" not in said[name]["campaigns"]
    assert (tmp_path / "a" / "clips.json").read_bytes() == (tmp_path / "b" / "clips.json").read_bytes()
    store = ClipStore(str(tmp_path / "a" / "s"))
    assert len(store.ids()) == said["a"]["clips"] == sum(said["a"]["campaigns"].values())
