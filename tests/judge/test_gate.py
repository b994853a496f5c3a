"""Gates and verdict files."""

import json

import numpy as np
import pytest

from drivefoundry.judge.gate import Gate, judge, load_verdict, save_verdict

SCENES = [f"s{i}" for i in range(40)]


def scores():
    rng = np.random.default_rng(0)
    base = rng.random(40) * 0.5
    hits = (np.arange(40) < 2).astype(float)  # 5 %
    never = np.where(hits > 0, 3.0, np.inf)
    return {
        "ours": {"score": base + 0.2, "collision": hits, "first": never},
        "theirs": {"score": base, "collision": 1 - hits, "first": never},
    }


def test_mean_gates():
    v = judge("ours", SCENES, scores(), (Gate("collision", at_most=0.10), Gate("score", at_least=0.3)))
    assert v.passed
    assert v.gates["collision <="] == (0.05, 0.10, True)
    assert not judge("theirs", SCENES, scores(), (Gate("collision", at_most=0.10),)).passed


def test_a_certain_gate_takes_the_end_of_the_interval():
    assert judge("ours", SCENES, scores(), (Gate("collision", at_most=0.06),)).passed
    assert not judge("ours", SCENES, scores(), (Gate("collision", at_most=0.06, certain=True),)).passed


def test_gates_against_another_policy_are_paired():
    better = Gate("score", at_least=0.19, against="theirs", certain=True)
    assert judge("ours", SCENES, scores(), (better,)).passed
    v = judge("theirs", SCENES, scores(), (Gate("score", at_least=-0.05, against="ours", certain=True),))
    assert not v.passed
    assert v.gates["score vs ours >="][0] == pytest.approx(-0.2)


def test_times_that_never_came_have_no_mean():
    v = judge("ours", SCENES, scores(), ())
    assert set(v.summary["ours"]) == {"score", "collision"}
    assert v.passed


def test_file_and_back(tmp_path):
    v = judge("ours", SCENES, scores(), (Gate("collision", at_most=0.10),))
    path = tmp_path / "verdict.json"
    save_verdict(path, v)
    back = load_verdict(path)
    assert (back.candidate, back.scenes, back.summary, back.gates) == (v.candidate, v.scenes, v.summary, v.gates)
    for policy in v.scores:
        for metric in v.scores[policy]:
            assert np.array_equal(back.scores[policy][metric], v.scores[policy][metric])
    assert list(tmp_path.iterdir()) == [path]
    assert "Infinity" not in path.read_text()


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ((Gate("speed", at_least=1),), "no such metric"),
        ((Gate("score", at_least=1, against="nobody"),), "nobody was not scored"),
        ((Gate("score"),), "at_least or at_most"),
        ((Gate("score", at_least=0.1), Gate("score", at_least=0.2)), "two of them"),
    ],
)
def test_bad_gates_are_refused(gates, message):
    with pytest.raises(ValueError, match=message):
        judge("ours", SCENES, scores(), gates)


def test_scores_on_other_scenes_are_refused():
    with pytest.raises(ValueError, match="scores of ours: score"):
        judge("ours", SCENES[:5], scores(), ())
    with pytest.raises(ValueError, match="candidate: mine"):
        judge("mine", SCENES, scores(), ())


def test_bad_files_are_refused_by_name(tmp_path):
    path = tmp_path / "verdict.json"
    with pytest.raises(ValueError, match=r"verdict\.json: no such verdict"):
        load_verdict(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not a verdict"):
        load_verdict(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="field format"):
        load_verdict(path)
    save_verdict(path, judge("ours", SCENES, scores(), ()))
    body = json.loads(path.read_text())
    body["scores"]["ours"]["score"].pop()
    path.write_text(json.dumps(body))
    with pytest.raises(ValueError, match=r"scores\.ours\.score has 39 values"):
        load_verdict(path)
