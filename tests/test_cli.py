"""The command line: fast help, one line and exit code 2 for invalid input."""

import errno
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from drivefoundry import cli
from drivefoundry import recipes as real_recipes
from drivefoundry.cli.options import flags, named, parse
from drivefoundry.cli.verbs import STAGES, VERBS, subcommands


@dataclass(frozen=True)
class Recipe:
    loops: int = 3
    seed: int = 1


@pytest.fixture
def calls(monkeypatch):
    """Replaces the line and its recipes: records what the command line passes on, and can raise errors."""
    out = []
    line, recipes = ModuleType("drivefoundry.line"), ModuleType("drivefoundry.recipes")
    vars(recipes).update(vars(real_recipes))

    def ran(path):
        return SimpleNamespace(report=path / "report.html", seconds=0.0, done=[], text="done")

    def run(recipe, path, *, until, drives, scenes, track, dry):
        out.append((recipe, str(path), until))
        if recipe.seed == 28:
            raise OSError(errno.ENOSPC, "disk full while making clips", "out")
        if recipe.seed == 98:
            raise OSError(errno.EADDRINUSE, "port 8000 is in use")
        if recipe.seed == 0:
            raise KeyboardInterrupt
        if recipe.seed == 9:
            raise ImportError("libGLU.so.1: cannot open shared object file: No such file or directory")
        return ran(path)

    def report(asked, path, *, dry):
        out.append((asked.recipe, str(path), "report"))
        return ran(path)

    def named(name):
        if name not in ("default", "tiny"):
            raise ValueError(f"recipe {name!r}: known: default, tiny")
        return Recipe()

    line.run, line.report, recipes.named = run, report, named  # pyright: ignore[reportAttributeAccessIssue]
    import drivefoundry
    import drivefoundry.runs.asked
    import drivefoundry.scenes.show  # builds on the real ones

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


def test_help_names_every_verb_and_stage(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in [*VERBS, *STAGES]:
        assert sum(line.startswith(f"  {name} ") for line in lines) >= 1
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_its_own_options_and_examples(capsys, name):
    verb = VERBS[name]
    assert cli.main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert " ".join(out.split()).count(f"{verb.what[0].upper()}{verb.what[1:]}.") == 1
    for flag in [*flags(named(verb.options)), "--json"]:
        assert flag in out
    for words, what in verb.examples:
        assert f"  drivefoundry {words}\n      {what}" in out
    assert cli.main(["help", *name.split()]) == 0
    assert capsys.readouterr().out == out


def test_options_belong_to_the_verbs_in_which_they_mean_something():
    takes = {name: flags(named(verb.options)) for name, verb in VERBS.items()}
    assert {name for name in takes if "--loops" in takes[name]} == {"run"}
    assert {name for name in takes if "--until" in takes[name]} == {"run"}
    assert {name for name in takes if "--track" in takes[name]} == {"run", "scale run"}
    assert all("--json" in options for options in takes.values())
    creates = {"run", "report", "scale run", "scale fit", "plan cluster", "city", "scene show", "model import"}
    assert creates <= {name for name in takes if "--dry-run" in takes[name]}


@pytest.mark.parametrize("name", VERBS)
def test_examples_are_understood(name):
    for words, _ in VERBS[name].examples:
        said = shlex.split(words.partition(" > ")[0])
        assert parse(VERBS[name], said[len(name.split()) :]) is not None


@pytest.mark.parametrize("noun", ["ingest", "judge", "campaign", "scene", "model", "scale"])
def test_a_noun_alone_shows_its_subcommands_and_starts_nothing(capsys, monkeypatch, tmp_path, calls, noun):
    monkeypatch.chdir(tmp_path)
    shown = []
    for argv in ([noun], [noun, "-h"], [noun, "--help"], ["help", noun]):
        assert cli.main(argv) == 0
        shown.append(capsys.readouterr().out)
        for sub in subcommands(noun):
            assert f"  drivefoundry {noun} {sub} " in shown[-1]
    assert len(set(shown[1:])) == 1
    assert shown[1].startswith(shown[0]) == (noun in VERBS) or shown[0] == shown[1]
    if noun in VERBS:
        return
    said = refused(capsys, noun, "zzz")
    assert f"{noun}: unknown subcommand 'zzz'; usage: drivefoundry {noun} {'|'.join(subcommands(noun))}" in said
    assert calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", [*STAGES, "distill"])
def test_a_stage_is_no_verb(capsys, monkeypatch, tmp_path, calls, stage):
    monkeypatch.chdir(tmp_path)
    argv = [stage, "--out", "x", "--recipe", "tiny"]
    assert f"drivefoundry run --until {stage.removesuffix('l') if stage == 'distill' else stage}" in refused(
        capsys, *argv
    )
    assert calls == []
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy():
    code = "import sys; from drivefoundry.cli import main; main(['--help']); main(['run', '-h']); print([*sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for heavy in ("torch", "numba", "numpy", "lance", "pyarrow", "libsumo", "rich"):
        assert f"'{heavy}'" not in out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["trian"], "unknown verb 'trian': did you mean 'run --until train'?"),
        (["serv"], "unknown verb 'serv': did you mean 'serve'?"),
        (["zzz"], "unknown verb 'zzz': see `drivefoundry --help`"),
        (["version"], "unknown verb 'version': did you mean `drivefoundry --version`?"),
        (["help", "zzz"], "unknown verb 'zzz'"),
        (["ingest", "sreve"], "unknown subcommand 'sreve' (did you mean 'serve'?); usage: drivefoundry ingest serve|"),
        (["judge", "compar", "a", "b"], "judge: unknown subcommand 'compar' (did you mean 'compare'?)"),
        (
            ["judge", "zzz"],
            "zzz: no such file or directory; give constant-velocity, rules, pdm-closed, log-replay",
        ),
        (["judge", "rules"], "judge rules: give --scenes, recorded traffic or a run (its exam)"),
        (["judge", "rules", "--drives", "."], "judge rules: --drives is for a model"),
        (["judge", "rules", "--scenes", "no/such"], "--scenes no/such: no such file or directory"),
        (
            ["judge", "--scenes", "."],
            "judge: WHO is missing; usage: drivefoundry judge WHO [options]; the stage of this",
        ),
        (["report", "a", "--out", "b"], "report: a and --out b: give one run directory"),
        (["ls", "no/such"], "no/such: no run is here"),
        (["status", "no/such"], "no/such: no run is here"),
        (["gc", "no/such"], "no/such: no run is here"),
        (["model", "show", "no:rl:2"], "no:rl:2: no is not a run directory"),
        (["scene", "list", "--jsn"], "scene list: unknown option '--jsn': did you mean '--json'?"),
        (["campaign", "check", "--drives", "x.toml"], "campaign check: unknown option '--drives': known: --json"),
        (["run", "-x"], "run: unknown option '-x'"),
        (["report", "--loops", "3"], "report: unknown option '--loops'"),
        (["city", "a", "b"], "city: unexpected argument 'b'"),
        (["run", "--lops", "3"], "run: unknown option '--lops': did you mean '--loops'?"),
        (["run", "zzz"], "run: unexpected argument 'zzz'"),
        (["run", "--loops", "x"], "run: Error parsing --loops"),
        (["run", "--out"], "run: Missing value for argument '--out'"),
        (["run", "--until", "lable"], "--until lable: no such stage; did you mean 'label'?"),
        (["run", "--until", "report"], "--until report: no such stage"),
        (["run", "--set", "sed=3"], "unknown key 'sed': did you mean 'seed'?"),
        (["run", "--set", "seed"], "--set seed: must be key=value"),
        (["run", "--recipe", "huge"], "recipe 'huge': known: default, tiny"),
        (["run", "--recipe", "no/such.toml"], "no/such.toml: No such file or directory"),
        (["run", "--drives", "no/such"], "--drives no/such: no such file or directory"),
        (["scene", "shwo"], "scene: unknown subcommand 'shwo' (did you mean 'show'?)"),
        (["scene", "show"], "scene show: WHAT is missing; usage: drivefoundry scene show WHAT [options]"),
        (["scene", "list", "no/such"], "no/such: no such file or directory"),
        (["scene", "show", "no/such", "--at", "x"], "scene show: Error parsing --at"),
        (["model", "exprot"], "model: unknown subcommand 'exprot' (did you mean 'export'?)"),
        (["model", "show", "9M"], "9M: neither a model nor one of the sizes 0.1M"),
        (["model", "import", "no/such.gguf"], "no/such.gguf: no such backbone"),
        (["model", "export", "no/such"], "model export: give --hf DIR or --gguf FILE"),
        (["model", "export", "no/such", "--hf", "x"], "no/such: no such file or directory"),
        (["model", "export", "no/such", "--form", "Q4_1"], "model export: invalid choice 'Q4_1'"),
        (["run", "--until", "import"], "run --until import: give --drives PATH or --scenes PATH"),
        (["run", "--until", "serve"], "--until serve: no such stage"),
        (["serve"], "serve: give --engine NAME"),
        (["plan", "--days", "3", "--cards", "8"], "plan: --days and --cards: give one of them"),
        (["plan", "--model", "huge"], "model 'huge': "),
        (["plan", "--chip", "own"], "chip.tflops: must be > 0, got 0; give it with --set chip.tflops=..."),
        (["plan", "--set", "mffu=0.5"], "unknown key 'mffu': did you mean 'mfu'?"),
        (["plan", "--crads", "8"], "plan: unknown option '--crads': did you mean '--cards'?"),
        (["plan", "cluster", "--set", "spares=2"], "spares: must be a share < 1, got 2"),
        (["plan", "cluster", "--seeds", "0"], "seeds: must be >= 1, got 0"),
        (["scale", "fit", "no/such.jsonl"], "no/such.jsonl: No such file or directory"),
        (["serve", "--speed-limt", "9"], "serve: unknown option '--speed-limt': did you mean '--speed-limit'?"),
        (["scene", "list", "a" * 5000], "File name too long"),
        (["serve", "--mode", "kart"], "serve: invalid choice 'kart' for argument '--mode'"),
        (["run", "--set", "seed=28"], "out: disk full while making clips"),
        (["run", "--set", "seed=98"], "port 8000 is in use"),
        (["run", "--set", "seed=9"], "libGLU.so.1 is missing on this machine"),
    ],
)
def test_refusals(capsys, calls, argv, line):
    assert line in refused(capsys, *argv)


def test_missing_requirements_of_serving_are_reported(capsys, monkeypatch):
    for name in ("carla_driver_interface", "carla_driver_interface.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "drivefoundry_car.driving.alpasim_server", raising=False)
    assert "pip install 'drivefoundry-car[alpasim]'" in refused(capsys, "serve", "--engine", "here")


def test_settings_reach_the_line(calls):
    assert cli.main(["run", "--loops", "5", "--set", "seed=7", "--out", "here"]) == 0
    assert cli.main(["run", "--until", "label"]) == 0
    assert calls == [(Recipe(5, 7), "here", None), (Recipe(), "out", "label")]


def test_the_report_is_of_the_recipe_that_is_asked_for(calls):
    assert cli.main(["report", "--out", "here", "--set", "seed=7"]) == 0
    assert calls == [(Recipe(3, 7), "here", "report")]


def test_json_is_one_document_on_stdout(calls, capsys):
    assert cli.main(["run", "--json", "--out", "here"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": "here/report.html", "seconds": 0.0, "artefacts": []}
    assert cli.main(["plan", "--eflops", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cards"] == pytest.approx(3125)
    assert cli.main(["model", "show", "4m", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert sum(shown["parts"].values()) == shown["parameters"] > 4e6


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
    assert "No score law: 0 runs drove, at least 7 are needed." in out
    assert json.loads((tmp_path / "out" / "law.json").read_text())["coefficients"]["beta"][0] == pytest.approx(0.28)
    assert (tmp_path / "out" / "scaling.html").exists()


def test_recipe_file(calls, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 11\n")
    assert cli.main(["run", "--recipe", str(path), "--set", "loops=1"]) == 0
    assert calls[0][0] == Recipe(1, 11)


def test_interrupt(capsys, calls, monkeypatch):
    assert cli.main(["run", "--set", "seed=0"]) == 130
    assert capsys.readouterr().err == "drivefoundry: stopped; the same command resumes\n"

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("drivefoundry.scaling.goodput.sweep.sweep", stopped)
    assert cli.main(["plan", "cluster", "--seeds", "1"]) == 130
    assert capsys.readouterr().err == "drivefoundry: stopped\n"


BASH = """
COMP_WORDS=({words}); COMP_CWORD={at}; _drivefoundry; printf '%s\\n' "${{COMPREPLY[@]-}}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ru"], {"run"}),
        (["ingest", ""], {"serve", "enrol", "revoke", "vehicles"}),
        (["help", "scene", ""], {"show", "list"}),
        (["scene", "show", "--o"], {"--out"}),
        (["run", "--unt"], {"--until"}),
        (["run", "--until", "di"], {"distil"}),
        (["run", "--recipe", ""], {"default", "tiny"}),
        (["serve", "--mode", "c"], {"carla"}),
        (["model", "export", "x", "--form", "F"], {"F32", "F16"}),
        (["plan", "cl"], {"cluster"}),
        (["plan", "--c"], {"--clips", "--cards", "--chip"}),
        (["plan", "cluster", "--se"], {"--seeds", "--set"}),
        (["completion", "f"], {"fish"}),
        (["report", "--loo"], set()),
        (["run", "--out", ""], set()),
    ],
)
def test_bash_completes(capsys, tmp_path, words, found):
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    said = " ".join(shlex.quote(word) for word in ["drivefoundry", *words])
    script.write_text(capsys.readouterr().out + BASH.format(words=said, at=len(words)))
    done = subprocess.run(["bash", "-u", "-c", f"source {script}"], check=True, capture_output=True, text=True)
    assert {word for word in done.stdout.split("\n") if word} == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_scripts(capsys, tmp_path, shell):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert name.split()[-1] in script
        for flag in flags(named(verb.options)):
            assert flag.lstrip("-") in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, capture_output=True)


def test_unforeseen_errors_are_not_hidden(monkeypatch):
    monkeypatch.setattr(cli, "manual", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["--help"])
