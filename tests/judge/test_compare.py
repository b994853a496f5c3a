"""Two verdicts side by side, and what went wrong in the worst scenes."""

import numpy as np
import pytest
from straight_road import moving, scene

from drivefoundry import cli
from drivefoundry.judge.compare import compare_verdicts, comparison_text, shared_scenes
from drivefoundry.judge.gate import judge, load_verdict, save_verdict, scene_content
from drivefoundry.judge.worst import failed_scenes, failure, listed, worst_scenes
from drivefoundry.types import short_id

N = 30


def metrics(score: np.ndarray, hit: int | None = None) -> dict[str, np.ndarray]:
    """Scores of a policy that collides in scene `hit` after 4.5 s."""
    never = np.full(len(score), np.inf)
    at = never.copy()
    if hit is not None:
        at[hit] = 4.5
    times = {"collision_at": at, "at_fault_at": at, "off_road_at": never, "red_light_at": never}
    return {"driving_score_21": score, "epdms": score, "progress": np.ones(len(score)), **times}


def verdict(lift: float, hit: int | None, scenes: range = range(N), changed: bool = False):
    base = 0.5 + 0.3 * np.sin(np.arange(100))
    score = base[list(scenes)] + lift
    if hit is not None:
        score[hit] = 0.0
    content = [f"{s}{'x' if changed and s < 5 else ''}" for s in scenes]
    table = {"ours": metrics(score, hit), "constant velocity": metrics(base[list(scenes)])}
    return judge("ours", [f"scene{s}" for s in scenes], table, (), content)


def test_shared_scenes_have_the_same_content():
    a, b = verdict(0.0, None), verdict(0.1, None, range(10, 40))
    at_a, at_b = shared_scenes(a, b)
    assert at_a.tolist() == list(range(10, 30))
    assert at_b.tolist() == list(range(20))
    assert len(shared_scenes(a, verdict(0.0, None, changed=True))[0]) == N - 5
    with pytest.raises(ValueError, match="share no scene"):
        shared_scenes(a, verdict(0.0, None, range(50, 60)))


def test_differences_are_paired():
    rows = compare_verdicts(verdict(0.0, None), verdict(0.1, None))
    ours = [r for r in rows if r.policy == "ours"]
    assert [r.metric for r in ours] == ["driving_score_21", "epdms"]
    assert ours[0].change.difference == pytest.approx(0.1)
    assert ours[0].change.superior
    same = next(r for r in rows if r.policy == "constant velocity")
    assert (same.change.difference, same.change.superior, same.change.non_inferior) == (0.0, False, True)


def test_text_names_what_changed_most():
    text = comparison_text(verdict(0.0, None), verdict(0.0, 7))
    assert "30 scenes in both" in text
    assert "CARLA leaderboard 2.1" in text
    assert "NAVSIM v2.2" in text
    changed = text.splitlines()[-1]
    assert short_id("scene7") in changed
    assert changed.endswith("nothing wrong -> collision at fault at 4.5 s")
    assert comparison_text(verdict(0.0, None), verdict(0.0, None)).endswith("no scene changed")


def test_command_line(tmp_path, capsys):
    for name, lift in (("a", 0.0), ("b", 0.1)):
        (tmp_path / name).mkdir()
        save_verdict(tmp_path / name / "verdict.json", verdict(lift, None))
    assert cli.main(["judge", "compare", str(tmp_path / "a" / "verdict.json"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "+0.100" in out
    assert "superior" in out
    assert cli.main(["judge", "compare", str(tmp_path / "a")]) == 2
    assert "judge compare: B is missing; usage: drivefoundry judge compare A B" in capsys.readouterr().err
    assert cli.main(["judge", "compare", str(tmp_path / "a"), str(tmp_path / "none")]) == 2
    assert "none: no such verdict" in capsys.readouterr().err


def test_files_keep_content_versions_and_comparisons(tmp_path):
    path = tmp_path / "verdict.json"
    v = verdict(0.1, None)
    save_verdict(path, v)
    back = load_verdict(path)
    assert (back.content, back.versions, back.comparisons) == (v.content, v.versions, v.comparisons)
    told = back.comparisons["constant velocity"]["driving_score_21"]
    assert told["difference"] == pytest.approx(0.1)
    assert told["margin"] == 0.02
    assert back.versions["driving_score_21"] == "driving score, CARLA leaderboard 2.1"


def test_content_of_a_scene():
    one = scene(moving(0, 0, 8), moving(20, 0, 3))
    assert scene_content(one) == scene_content(scene(moving(0, 0, 8), moving(20, 0, 3), id="other name"))
    assert scene_content(one) != scene_content(scene(moving(0, 0, 8), moving(20.1, 0, 3)))
    assert scene_content(one) != scene_content(scene(moving(0, 0, 8), moving(20, 0, 3), red=True))


def test_what_failed_first():
    never = np.full(5, np.inf)
    m = {
        "driving_score_21": np.array([0.9, 0.1, 0.5, 0.4, 1.0]),
        "collision_at": np.array([np.inf, 3.0, 2.0, np.inf, np.inf]),
        "at_fault_at": np.array([np.inf, 3.0, np.inf, np.inf, np.inf]),
        "off_road_at": np.array([np.inf, 2.5, np.inf, np.inf, np.inf]),
        "red_light_at": never,
        "progress": np.array([1.0, 0.2, 1.0, 0.4, 1.0]),
    }
    assert [failure(m, i) for i in range(5)] == [
        ("", np.inf), ("left the road", 2.5), ("was hit", 2.0), ("too little progress", np.inf), ("", np.inf)
    ]  # fmt: skip
    assert [(f.scene, f.score) for f in worst_scenes(list("abcde"), m, 2)] == [("b", 0.1), ("d", 0.4)]
    assert [f.scene for f in worst_scenes(list("abcde"), m, 9)] == ["b", "d", "c"]


def test_failed_scenes_are_counted_and_the_worst_named():
    none = np.zeros(4)
    m = {
        "driving_score_21": np.array([0.9, 0.1, 0.5, 1.0]), "progress": np.array([1.0, 0.2, 0.4, 1.0]),
        "collision": np.array([0.0, 1.0, 1.0, 0.0]), "off_road": none, "red_light": np.array([2.0, 0.0, 0.0, 0.0]),
        **{at: np.full(4, np.inf) for at in ("collision_at", "at_fault_at", "off_road_at", "red_light_at")},
    }  # fmt: skip
    assert failed_scenes(m, 1) == {
        "collided": (2, [1]),
        "ran a red light": (1, [0]),
        "got less than half as far as the route follower": (2, [1]),
    }
    assert listed(list("abcd"), m, 1) == {0, 1}
    assert listed(list("abcd"), m, 3) == {0, 1, 2}
