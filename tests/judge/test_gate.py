"""Gates and verdict files."""

import json

import numpy as np
import pytest

from drivefoundry.judge.gate import Gate, gate_text, judge, load_verdict, save_verdict
from drivefoundry.types import short_id

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


def state(gate: Gate, **policies: np.ndarray) -> str:
    """State of a gate on scores of one metric."""
    n = len(policies["ours"])
    table = {name: {"score": values} for name, values in policies.items()}
    (found,) = judge("ours", [f"s{i}" for i in range(n)], table, (gate,)).gates.values()
    return found.state


def test_the_unfavourable_end_of_the_interval_decides():
    v = judge("ours", SCENES, scores(), (Gate("collision", at_most=0.13), Gate("score", at_least=0.3)))
    assert v.passed
    found = v.gates["collision <="]
    assert (found.value, found.bound, found.scenes, found.state) == (0.05, 0.13, 40, "passed")
    assert found.low <= 0.05 <= found.high <= 0.13
    # the mean of 5 % keeps a bound of 6 %, the interval does not
    assert judge("ours", SCENES, scores(), (Gate("collision", at_most=0.06),)).state == "failed"
    assert judge("theirs", SCENES, scores(), (Gate("collision", at_most=0.10),)).state == "failed"


def test_gates_against_another_policy_are_paired():
    # the policies' scores overlap widely; only scene by scene the difference is certain
    better = Gate("score", at_least=0.19, against="theirs")
    assert judge("ours", SCENES, scores(), (better,)).passed
    v = judge("theirs", SCENES, scores(), (Gate("score", at_least=-0.05, against="ours"),))
    assert v.state == "failed"
    assert v.gates["score vs ours >="].value == pytest.approx(-0.2)
    other = judge("theirs", SCENES, scores(), (Gate("score", at_least=0.0, subject="ours", against="theirs"),))
    assert other.gates["ours: score vs theirs >="].value == pytest.approx(0.2)
    assert other.passed


def test_too_few_scenes_decide_nothing():
    gate = Gate("score", at_least=0.5, least_scenes=30)
    assert state(gate, ours=np.ones(29)) == "not decided"
    assert state(gate, ours=np.zeros(29)) == "not decided"
    assert state(gate, ours=np.ones(30)) == "passed"
    assert state(gate, ours=np.zeros(30)) == "failed"


def test_an_interval_wider_than_the_margin_decides_nothing_unless_all_of_it_is_worse():
    gate = Gate("score", at_least=-0.05, against="theirs")
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.3, 40)
    noise -= noise.mean()  # the half-width of the interval is about 0.09
    assert state(gate, ours=0.5 + noise, theirs=np.full(40, 0.5)) == "not decided"
    assert state(gate, ours=0.3 + noise, theirs=np.full(40, 0.5)) == "failed"
    assert state(gate, ours=0.6 + noise, theirs=np.full(40, 0.5)) == "passed"
    few = 0.1 * noise  # precise enough to tell, and not within the margin
    assert state(gate, ours=0.445 + few, theirs=np.full(40, 0.5)) == "failed"
    wide = Gate("score", at_most=0.05, against="theirs")  # the same where less is better
    assert state(wide, ours=0.5 + noise, theirs=np.full(40, 0.5)) == "not decided"
    assert state(wide, ours=0.7 + noise, theirs=np.full(40, 0.5)) == "failed"
    assert state(wide, ours=0.4 + noise, theirs=np.full(40, 0.5)) == "passed"


def test_superiority_is_shown_or_it_is_not():
    gate = Gate("score", at_least=0.0, against="theirs")
    noise = np.random.default_rng(1).normal(0, 0.3, 40)
    assert state(gate, ours=0.5 + noise, theirs=np.full(40, 0.5)) == "failed"


@pytest.mark.parametrize(("holds", "passed"), [(True, False), (False, True)])
def test_what_an_open_gate_does_is_its_own_to_say(holds, passed):
    v = judge("ours", SCENES, scores(), (Gate("score", at_least=0.0, least_scenes=41, holds=holds),))
    assert v.gates["score >="].state == "not decided"
    assert v.passed is passed
    assert v.state == ("passed" if passed else "not decided")


def test_a_gate_names_the_scenes_that_decide():
    found = judge("ours", SCENES, scores(), (Gate("collision", at_most=0.01),)).gates["collision <="]
    assert found.deciding == ["s0", "s1"]
    text = gate_text("collision <=", found)
    for part in ("collision <= 0.01", "0.050 [", "40 scenes", "failed", short_id("s0"), short_id("s1")):
        assert part in text


def test_suites_are_judged_on_their_scenes_alone():
    table = {"ours": {"score": np.repeat([1.0, 0.2], 20)}, "theirs": {"score": np.full(40, 0.8)}}
    suites = {"easy": SCENES[:20], "hard": SCENES[20:], "none": []}
    gates = tuple(Gate("score", at_least=-0.05, against="theirs", suite=s, least_scenes=10) for s in suites)
    v = judge("ours", SCENES, table, gates, suites=suites)
    assert {name: (gate.scenes, gate.state) for name, gate in v.gates.items()} == {
        "score vs theirs in easy >=": (20, "passed"),
        "score vs theirs in hard >=": (20, "failed"),
        "score vs theirs in none >=": (0, "not decided"),
    }
    assert set(v.gates["score vs theirs in hard >="].deciding) < set(suites["hard"])


def test_policies_that_drove_only_the_first_scenes_are_compared_on_those():
    table = {"ours": {"score": np.repeat([0.5, 0.0], 20)}, "theirs": {"score": np.full(20, 0.5)}}
    gate = Gate("score", at_least=-0.01, against="theirs", least_scenes=20)
    found = judge("ours", SCENES, table, (gate,)).gates["score vs theirs >="]
    assert (found.scenes, found.value, found.state) == (20, 0.0, "passed")


def test_times_that_never_came_have_no_mean():
    v = judge("ours", SCENES, scores(), ())
    assert set(v.summary["ours"]) == {"score", "collision"}
    assert v.passed


def test_file_and_back(tmp_path):
    suites = {"lights": SCENES[:3]}
    v = judge("ours", SCENES, scores(), (Gate("collision", at_most=0.10),), suites=suites)
    path = tmp_path / "verdict.json"
    save_verdict(path, v)
    back = load_verdict(path)
    assert (back.candidate, back.scenes, back.summary, back.gates) == (v.candidate, v.scenes, v.summary, v.gates)
    assert back.suites == suites
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
        ((Gate("score", at_least=1, suite="rain"),), "suite rain does not exist"),
        ((Gate("score"),), "exactly one of at_least and at_most"),
        ((Gate("score", at_least=0.1), Gate("score", at_least=0.2)), "two of them"),
    ],
)
def test_bad_gates_are_refused(gates, message):
    with pytest.raises(ValueError, match=message):
        judge("ours", SCENES, scores(), gates)


def test_scores_on_other_scenes_are_refused():
    with pytest.raises(ValueError, match=r"scores of ours: score.*first of 5 scenes"):
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
    save_verdict(path, judge("ours", SCENES, scores(), (Gate("collision", at_most=0.10),)))
    body = json.loads(path.read_text())
    for field, value in (("state", "fine"), ("deciding", [1]), ("low", "0")):
        spoilt = json.loads(json.dumps(body))
        spoilt["gates"]["collision <="][field] = value
        path.write_text(json.dumps(spoilt))
        with pytest.raises(ValueError, match=r"field gates\.collision <= is not a gate.s result"):
            load_verdict(path)
    body["scores"]["ours"]["score"].pop()
    path.write_text(json.dumps(body))
    with pytest.raises(ValueError, match=r"scores\.ours\.score has 39 values"):
        load_verdict(path)
