"""The command line: help without waiting, one line and exit code 2 for what it does not understand."""

import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from drivefoundry import cli
from drivefoundry.cli.verbs import VERBS


@dataclass(frozen=True)
class Recipe:
    loops: int = 3
    seed: int = 1


@pytest.fixture
def calls(monkeypatch):
    """The line and its recipes replaced at the seam: what the command line hands over, and errors that it may meet."""
    out = []
    line, recipes = ModuleType("drivefoundry.line"), ModuleType("drivefoundry.recipes")

    def run(recipe, path, *, until, drives, scenes, look, track):
        out.append((recipe, str(path), until) if not look else (recipe, str(path), "look"))
        if recipe.seed == 28:
            raise OSError(errno.ENOSPC, "disk full while making clips", "out")
        if recipe.seed == 98:
            raise OSError(errno.EADDRINUSE, "port 8000 is in use")
        if recipe.seed == 0:
            raise KeyboardInterrupt
        if recipe.seed == 9:
            raise ImportError("libGLU.so.1: cannot open shared object file: No such file or directory")

    def named(name):
        if name not in ("default", "tiny"):
            raise ValueError(f"recipe {name!r}: known: default, tiny")
        return Recipe()

    line.run, recipes.named = run, named  # pyright: ignore[reportAttributeAccessIssue]
    import drivefoundry
    import drivefoundry.stages.look  # builds on the real ones

    for name, module in (("line", line), ("recipes", recipes)):
        monkeypatch.setitem(sys.modules, f"drivefoundry.{name}", module)
        monkeypatch.setattr(drivefoundry, name, module, raising=False)
    return out


def refused(capsys, *argv: str) -> str:
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drivefoundry: ")
    assert err.count("\n") == 1
    return err


def test_help_names_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for group in VERBS.values():
        for verb in group:
            assert sum(line.startswith(f"  {verb} ") for line in lines) == 1
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    "verb", [v for group in VERBS.values() for v in group if v not in ("scene", "campaign", "model")]
)
def test_every_verb_has_help_with_its_options(capsys, verb):
    assert cli.main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert ("--out DIR" in out) == (verb not in ("serve", "plan"))
    assert ("--engine DIR" in out) == (verb == "serve")
    assert ("--until" in out) == (verb == "run")


def test_help_imports_nothing_heavy():
    code = "import sys; from drivefoundry.cli import main; main(['--help']); main(['run', '-h']); print([*sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for heavy in ("torch", "numba", "numpy", "lance", "pyarrow", "libsumo", "rich"):
        assert f"'{heavy}'" not in out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["trian"], "unknown verb 'trian': did you mean 'train'?"),
        (["run", "--lops", "3"], "run: unknown option '--lops': did you mean '--loops'?"),
        (["run", "zzz"], "run: unknown option 'zzz': known: --out"),
        (["run", "--loops", "x"], "run: Error parsing --loops"),
        (["run", "--out"], "run: Missing value for argument '--out'"),
        (["run", "--until", "lable"], "--until lable: no such stage; did you mean 'label'?"),
        (["run", "--until", "report"], "--until report: no such stage"),
        (["run", "--set", "sed=3"], "unknown key 'sed': did you mean 'seed'?"),
        (["run", "--set", "seed"], "--set seed: key=value wanted"),
        (["run", "--recipe", "huge"], "recipe 'huge': known: default, tiny"),
        (["run", "--recipe", "no/such.toml"], "no/such.toml: No such file or directory"),
        (["run", "--drives", "no/such"], "--drives no/such: no such file or directory"),
        (["scene", "shwo"], "scene shwo: did you mean 'show'?"),
        (["scene", "show"], "scene show: "),
        (["scene", "list", "no/such"], "no/such: no such folder"),
        (["scene", "show", "no/such", "--at", "x"], "scene show: Error parsing --at"),
        (["model", "exprot"], "model exprot: did you mean 'export'?"),
        (["model", "show", "9M"], "9M: neither a checkpoint directory nor one of the sizes 0.1M"),
        (["model", "import", "no/such.gguf"], "no/such.gguf: no such backbone"),
        (["model", "export", "no/such"], "model export: give --hf DIR or --gguf FILE"),
        (["model", "export", "no/such", "--hf", "x"], "no/such: no model.safetensors; not a checkpoint"),
        (["model", "export", "no/such", "--form", "Q4_1"], "model export: invalid choice 'Q4_1'"),
        (["import"], "import: give --drives PATH or --scenes PATH"),
        (["run", "--until", "serve"], "--until serve: no such stage"),
        (["serve"], "serve: give --engine DIR"),
        (["plan", "--days", "3", "--cards", "8"], "plan: --days and --cards: give one of them"),
        (["plan", "--model", "huge"], "model 'huge': "),
        (["plan", "--chip", "own"], "chip.tflops: above 0 wanted, got 0; give it with --set chip.tflops=..."),
        (["plan", "--set", "mffu=0.5"], "unknown key 'mffu': did you mean 'mfu'?"),
        (["plan", "--crads", "8"], "plan: unknown option '--crads': did you mean '--cards'?"),
        (["plan", "cluster", "--set", "spares=2"], "spares: a share below 1 wanted, got 2"),
        (["plan", "cluster", "--seeds", "0"], "seeds: at least 1 wanted, got 0"),
        (["scale", "fit", "no/such.jsonl"], "no/such.jsonl: No such file or directory"),
        (["serve", "--speed-limt", "9"], "serve: unknown option '--speed-limt': did you mean '--speed-limit'?"),
        (["serve", "--mode", "kart"], "serve: invalid choice 'kart' for argument '--mode'"),
        (["run", "--set", "seed=28"], "out: disk full while making clips"),
        (["run", "--set", "seed=98"], "port 8000 is in use"),
        (["run", "--set", "seed=9"], "libGLU.so.1 is missing on this machine"),
    ],
)
def test_refusals(capsys, calls, argv, line):
    assert line in refused(capsys, *argv)


def test_what_serving_needs_is_said(capsys, monkeypatch):
    for name in ("carla_driver_interface", "carla_driver_interface.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "drivefoundry_car.egodriver", raising=False)
    assert "pip install 'drivefoundry-car[alpasim]'" in refused(capsys, "serve", "--engine", "here")


def test_settings_reach_the_line(calls):
    assert cli.main(["run", "--loops", "5", "--set", "seed=7", "--out", "here"]) == 0
    assert cli.main(["judge"]) == 0
    assert cli.main(["run", "--until", "label"]) == 0
    assert calls == [(Recipe(5, 7), "here", None), (Recipe(), "out", "judge"), (Recipe(), "out", "label")]


def test_stages_before_the_judge_end_in_the_first_turn(calls):
    for argv in (["label"], ["rl", "--loops", "2"], ["rl", "--set", "loops=2"], ["judge"], ["release"], ["car"]):
        assert cli.main(argv) == 0
    assert [recipe.loops for recipe, *_ in calls] == [1, 2, 2, 3, 3, 3]


def test_things_to_look_at(calls):
    assert cli.main(["report", "--out", "here"]) == 0
    assert calls == [(Recipe(), "here", "look")]


def test_scene_verbs_explain_themselves(capsys):
    assert cli.main(["scene"]) == 0
    assert "scene show WHAT" in capsys.readouterr().out
    for verb in ("show", "list"):
        assert cli.main(["scene", verb, "--help"]) == 0
        out = capsys.readouterr().out
        assert "WHAT" in out
        assert ("--at STEP" in out) == (verb == "show")


def test_plan(capsys):
    assert cli.main(["plan", "--model", "8b", "--cards", "512", "--clips", "1e6", "--set", "mfu=0.45"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8B on 1 M clips: 512 A800 for ")
    assert "1 EFLOPS = 3,125 cards = 391 modules = 371 M CNY" in out
    assert cli.main(["plan", "--cards", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cards"] == 64
    assert cli.main(["plan", "--eflops", "2.51"]) == 0
    assert "7,844" in capsys.readouterr().out
    assert cli.main(["plan", "--model", "0.3m", "--cards", "1"]) == 0
    assert "1 x 40 patches" in capsys.readouterr().out
    assert cli.main(["plan", "cluster", "--help"]) == 0
    assert "--seeds" in capsys.readouterr().out


def test_scale_fit(capsys, tmp_path):
    path = tmp_path / "runs.jsonl"
    runs = [(n, d, 1.7 + 400 / n**0.34 + 410 / d**0.28) for n in (1e7, 4e7, 2e8, 1e9) for d in (1e9, 1e10, 1e11)]
    path.write_text("".join(json.dumps(dict(parameters=n, tokens=d, loss=v)) + "\n" for n, d, v in runs))
    assert cli.main(["scale", "fit", str(path), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "alpha  0.34 (0.34 to 0.34)" in out
    assert "No score law: 0 runs drove, at least 7 wanted." in out
    assert json.loads((tmp_path / "out" / "law.json").read_text())["coefficients"]["beta"][0] == pytest.approx(0.28)
    assert (tmp_path / "out" / "scaling.html").exists()


def test_recipe_file(calls, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 11\n")
    assert cli.main(["run", "--recipe", str(path), "--set", "loops=1"]) == 0
    assert calls[0][0] == Recipe(1, 11)


def test_interrupt(capsys, calls):
    assert cli.main(["run", "--set", "seed=0"]) == 130
    assert capsys.readouterr().err == "drivefoundry: stopped; the same command goes on from here\n"


def test_unforeseen_errors_are_not_hidden(monkeypatch):
    monkeypatch.setattr(cli, "manual", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["--help"])
