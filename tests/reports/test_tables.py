"""The report's tables: metric versions in the heads, baselines in the rows, failures by name and time."""

import json
import shlex

import numpy as np
import pytest

from drivefoundry.judge.gate import judge, save_verdict
from drivefoundry.judge.worst import listed
from drivefoundry.ledger import Artefact
from drivefoundry.reports.content import Film
from drivefoundry.reports.films import film_id
from drivefoundry.reports.run import curves_of, failures, gate_words, scene_links
from drivefoundry.reports.tables import (
    ORDER,
    against_table,
    car_table,
    judge_table,
    source_table,
    traffic_table,
    worst_table,
)
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.stages.score import ENGINE, WHOLE_CAR
from drivefoundry.types import short_id

SCENES = [f"{i}".rjust(14, "s") for i in range(20)]
BASELINES = ("constant velocity", "log replay", "PDM-Closed style", "rule-based route follower")


def metrics(score: float, hit: int | None = None) -> dict[str, np.ndarray]:
    never = np.full(20, np.inf)
    at = never.copy()
    values = np.full(20, score)
    if hit is not None:
        at[hit], values[hit] = 6.2, 0.0
    means = ("driving_score_21", "driving_score_20", "epdms", "pdms", "progress", "comfort")
    events = ("collision", "at_fault_collision", "off_road", "red_light")
    times = {"collision_at": at, "at_fault_at": at, "off_road_at": never, "red_light_at": never}
    return {m: values for m in means} | {m: np.isfinite(at).astype(float) for m in events} | times


def verdict():
    table = {name: metrics(0.95) for name in BASELINES}
    return judge(ENGINE, SCENES, {ENGINE: metrics(0.99, hit=3), WHOLE_CAR: metrics(0.99), **table}, ())


def test_all_policies_and_versions_stand_in_the_table():
    table = judge_table(verdict(), ORDER)
    assert {row[0] for row in table.rows} == {ENGINE, WHOLE_CAR, *BASELINES}
    for version in ("CARLA 2.1", "CARLA 2.0", "NAVSIM v2.2", "NAVSIM v1"):
        assert any(version in head for head in table.columns), version
    assert table.marked is not None
    assert table.rows[table.marked][0] == ENGINE


def test_what_was_driven_where_the_map_knows_nothing_stands_below_the_table():
    assert "the map does not know" not in judge_table(verdict(), ORDER).note
    drives = {ENGINE: metrics(0.99) | {"unmapped_share": np.full(20, 0.25)}}
    drives |= {name: metrics(0.95) | {"unmapped_share": np.zeros(20)} for name in BASELINES}
    note = judge_table(judge(ENGINE, SCENES, drives, ()), ORDER).note
    assert note.endswith(f"not counted as off the road: {ENGINE} 25.0 %.")


def test_the_candidate_against_every_other_policy():
    table = against_table(verdict(), ORDER)
    assert {row[0] for row in table.rows} == {WHOLE_CAR, *BASELINES}
    row = next(r for r in table.rows if r[0] == "log replay" and "2.1" in str(r[1]))
    assert isinstance(row[2], tuple)
    assert row[2][0] == pytest.approx(19 * 0.04 / 20 - 0.95 / 20)
    assert "0.02" in table.note


def test_the_cars_of_all_turns_beside_the_baselines(tmp_path):
    save_verdict(tmp_path / "verdict.json", verdict())
    made = [Artefact(str(t), "k", "verdict", tmp_path, (), {}, True, 1.0, 1.0, 1, 0.0) for t in (1, 2)]
    rows = car_table([(t, "verdict", a) for t, a in zip((1, 2), made, strict=True)], Perception()).rows
    assert [row[0] for row in rows] == ["turn 1", "turn 2", *BASELINES]


def test_worst_scenes_name_what_failed_and_when():
    film = Film("f", "", "video/mp4", b"", id=film_id(SCENES[3], ENGINE, 2))
    links = scene_links(verdict(), 2, [film])
    table = worst_table(verdict(), 8, links)
    assert [[row[0], *row[2:]] for row in table.rows] == [[ENGINE, 0.0, "collision at fault", 6.2]]
    link = table.rows[0][1]
    assert link.id == short_id(SCENES[3])
    assert link.film == film.id
    assert shlex.split(link.command)[:6] == ["drivefoundry", "scene", "show", ".", "--scene", short_id(SCENES[3])]


def test_failures_name_their_scenes():
    notes = failures(verdict(), scene_links(verdict(), 2, []), 6)
    told = {note.text.partition(" in ")[0]: [link.id for link in note.scenes] for note in notes}
    ways = ("collided", "left the road", "ran a red light", "got less than half as far as the route follower")
    assert told == {f"{ENGINE} {way}": [short_id(SCENES[3])] for way in ways}
    assert not any(link.film for note in notes for link in note.scenes)


def test_every_scene_that_is_listed_has_a_film():
    """The films, chosen by their own scores, are those that the verdict's tables and notes link to."""
    v = verdict()
    shown = {
        film_id(v.scenes[i], policy, 2) for policy in (ENGINE, WHOLE_CAR) for i in listed(v.scenes, v.scores[policy], 6)
    }
    links = scene_links(v, 2, [Film("f", "", "video/mp4", b"", id=name) for name in shown])
    told = [link for note in failures(v, links, 6) for link in note.scenes]
    told += [row[1] for row in worst_table(v, 6, links).rows]
    assert told
    assert {link.film for link in told} == shown


def test_what_a_source_holds_is_not_listed_as_lacking():
    rows = source_table({"ego.speed": "true (CAN)", "route": "absent", "ego.yaw": "derived"}).rows
    assert rows == [["ego.speed", "CAN"], ["route", "absent"], ["ego.yaw", "derived"]]


def test_gates_read_as_words():
    assert gate_words("driving_score_21 vs constant velocity >=") == (
        "driving score (CARLA 2.1) minus that of constant velocity at least"
    )
    assert gate_words("collision <=") == "collisions at most"


def test_curves_are_named_by_training_and_turn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0, "reward": 0.5}\n')
    artefact = Artefact("i", "k", "x", tmp_path, (), {}, True, 1.0, 1.0, 1, 0.0)
    loss, reward = curves_of([(None, "pretrain", artefact), (2, "rl", artefact)], "PDMS")
    assert list(loss.series) == ["pre-training"]
    assert list(reward.series) == ["pre-training", "RL, turn 2"]
    assert "(PDMS of" in reward.title


def test_traffic_beside_its_log(tmp_path):
    known = {name: [0.7, 0.6, 0.8] for name in ("realism", "kinematic", "interactive")}
    (tmp_path / "realism.json").write_text(json.dumps({"log replay": {**known, "map_based": None}}))
    artefact = Artefact("i", "k", "realism", tmp_path, (), {}, True, 1.0, 1.0, 1, 0.0)
    (table,) = traffic_table([(None, "realism", artefact)])
    assert table.rows == [["log replay", (0.7, 0.6, 0.8), (0.7, 0.6, 0.8), (0.7, 0.6, 0.8), None]]
    assert "WOSAC 2025" in table.columns[1]
    assert traffic_table([]) == []
