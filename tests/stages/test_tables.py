"""The report's tables of judgements: versions in their heads, baselines in their rows, failures by name and time."""

import json

import numpy as np
import pytest

from drivefoundry.judge.gate import judge, save_verdict
from drivefoundry.ledger import Artefact
from drivefoundry.stages.score import ENGINE, WHOLE_CAR
from drivefoundry.stages.tables import ORDER, against_table, car_table, judge_table, traffic_table, worst_table
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
    rows = car_table([(t, "verdict", a) for t, a in zip((1, 2), made, strict=True)]).rows
    assert [row[0] for row in rows] == ["turn 1", "turn 2", *BASELINES]


def test_worst_scenes_name_what_failed_and_when():
    table = worst_table(verdict())
    assert table.rows == [[ENGINE, short_id(SCENES[3]), 0.0, "collision at fault", 6.2]]


def test_traffic_beside_its_log(tmp_path):
    known = {name: [0.7, 0.6, 0.8] for name in ("realism", "kinematic", "interactive")}
    (tmp_path / "realism.json").write_text(json.dumps({"log replay": {**known, "map_based": None}}))
    artefact = Artefact("i", "k", "realism", tmp_path, (), {}, True, 1.0, 1.0, 1, 0.0)
    (table,) = traffic_table([(None, "realism", artefact)])
    assert table.rows == [["log replay", (0.7, 0.6, 0.8), (0.7, 0.6, 0.8), (0.7, 0.6, 0.8), None]]
    assert "WOSAC 2025" in table.columns[1]
    assert traffic_table([]) == []
