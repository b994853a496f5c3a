"""The readers fuzzed by `benchmarks.fuzz`: each with valid inputs, a mutation, and the product's code for such a file.
A reader may return or raise ValueError, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import model_readers, mutations
from benchmarks.model_readers import Reader, read_from

RULES = (
    b"max ( speed ) over 2 s > 3 m/s and count ( takeover ) in 10 s >= 2",
    b"( accel < -4 m/s^2 until accel > 0 m/s^2 ) for 0.3 s or not engaged rising",
    b"delta ( speed ) over 1 s - mean ( speed ) over 4 s < range ( accel ) over 3 s * 1 s",
)


def _rules(folder: Path) -> Reader:
    """Compile rules, and run them over signals with all kinds of values and clocks."""
    from drivefoundry_car.triggers import rules
    from drivefoundry_car.triggers.signals import SIGNALS
    from drivefoundry_car.triggers.watch import Rules, program

    known = ("(", ")", "+", "-", "*", "/", "<", ">=", "^", "0", "1", "1e308", "1e-320", "9" * 400, "2 s", "1e9 s",
             "3 m/s", *rules._WORDS, *rules.UNITS, *SIGNALS, "mph", "é", "$")  # fmt: skip
    odd = np.array([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324])

    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        tree = rules.parse(text, SIGNALS)
        rng = np.random.default_rng(zlib_of(data))
        names = sorted(rules.signals_in(tree))
        watch = Rules(program([tree, tree], names), [0.0, 1.5])
        clock = np.unique(np.cumsum(rng.choice([1e-9, 0.01, 0.1, 5.0, 1e6], int(rng.integers(1, 300)))))
        n = len(clock)
        values = rng.choice(odd, (len(names), n))
        watch.run(clock[: n // 2], values[:, : n // 2])
        for i in range(n // 2, n):
            watch.push(clock[i], values[:, i])

    return Reader(list(RULES), lambda dice, data: mutations.words(dice, data, known), read)


def zlib_of(data: bytes) -> int:
    """A number that depends only on the bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")


def _campaigns(folder: Path) -> Reader:
    from drivefoundry_car.triggers import load_campaigns

    seed = (
        b'[hard]\nrule = "accel < -4 m/s^2 for 0.3 s"\npriority = 50\ncooldown_s = 3.5\nshare = 0.5\nbefore_s = 8\n'
        b'after_s = 9\nbytes_per_day = 1000000\ncohort = ["a*", "b"]\nuntil = 2031-05-03\npurpose = "x"\n\n'
        b'[some]\npick = "random"\nshare = 0.1\npriority = 2\n'
    )
    return Reader([seed], mutations.toml_text, read_from(folder / "x.toml", load_campaigns))


def _recipe(folder: Path) -> Reader:
    from drivefoundry.recipes import default
    from drivefoundry.settings import canonical, with_file

    seed = (
        b'loops = 2\n[fleet]\nplaces = ["place_a"]\ncars = 3\noutings = 12\nouting_seconds = 12.5\n'
        b'[train]\nsize = "4M"\nweight_decay = 0.1\nego_changes = true\n[scale]\nsizes = ["0.1M"]\n'
        b'samples = [64, 128]\n[rl]\nreward = "PDMS"\n'
    )
    read = read_from(folder / "x.toml", lambda path: canonical(with_file(default(), path).validate()))
    return Reader([seed], mutations.toml_text, read)


def _settings(folder: Path) -> Reader:
    import drivefoundry.model.backbones.load  # noqa: F401  what a backbone's check brings in takes seconds
    from drivefoundry.recipes import default
    from drivefoundry.settings import canonical, leaves, with_settings

    keys = [key for key, _ in leaves(default())]

    def spoil(dice: random.Random, data: bytes) -> bytes:
        value = dice.choice(
            (*map(str, mutations.NUMBERS), *mutations.WORDS, "inf", "-nan", "1_0", "1e999", "9" * 5000, "a,b")
        )
        key = (
            dice.choice(keys)
            if dice.random() < 0.9
            else dice.choice(("", ".", "fleet", "fleet.", "fleet..cars", "x.y"))
        )
        return f"{key}{dice.choice(('=', '=', '=', '==', ''))}{value}".encode("utf-8", "surrogatepass")

    def read(data: bytes) -> object:
        return canonical(with_settings(default(), [data.decode("utf-8", "surrogatepass")]).validate())

    return Reader([b"fleet.cars=3"], spoil, read)


def _json_files(folder: Path) -> Reader:
    """Verdicts, runs of a scaling law and shapes of models."""
    from drivefoundry.judge.gate import GateResult, Verdict, load_verdict, save_verdict
    from drivefoundry.model.config import ModelConfig
    from drivefoundry.scaling.law import Run, read_runs

    path = folder / "x.json"
    numbers = {"driving_score": np.array([0.5, 1.0])}
    summary = {"a": {"driving_score": (0.7, 0.6, 0.8)}}
    gates = {"collisions": GateResult("passed", 0.0, 0.0, 0.0, 0.1, False, 2, [], True)}
    save_verdict(path, Verdict("a", ["s1", "s2"], {"a": numbers, "rules": numbers}, summary, gates, {}, {}, {}))
    kinds: list[Callable[[Path], object]] = [
        load_verdict, read_runs, lambda p: ModelConfig.from_json(p.read_text("utf-8", "replace"))
    ]  # fmt: skip
    run = json.dumps(asdict(Run(1e6, 1e9, 3.0, 0.5, "x"))).encode()
    seeds = [b"0" + path.read_bytes(), b"1" + run, b"2" + ModelConfig().to_json().encode()]

    def read(data: bytes) -> object:
        path.write_bytes(data[1:])
        return kinds[data[0] - 48](path)

    return Reader(seeds, lambda dice, data: data[:1] + mutations.json_text(dice, data[1:]), read)


def _clip(folder: Path) -> Reader:
    """Recorded clips as the service checks them."""
    from benchmarks.triggers import drive
    from drivefoundry.clips.prepared import check
    from drivefoundry_car.log import cut, read_drive, write_drive

    path = folder / "x.mcap"
    one = cut(drive(0, 20), 2.0, 14.0)
    about = {"vehicle": "car-1", "drive": "d", "source": "fuzz", "place": "p", "map": "m" * 64}
    write_drive(path, type(one)(**{**vars(one), "meta": about}))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_drive(path)
        check(path, hashlib.sha256(data).hexdigest(), "car-1")

    return Reader([path.read_bytes()], mutations.mcap, read)


def _scenario(folder: Path) -> Reader:
    from drivefoundry.clips.importers.traffic.scenarionet import read

    t = 0.1 * np.arange(21)

    def track(x: float, speed: float, kind: str) -> dict[str, Any]:
        at = np.column_stack([x + speed * t, 0 * t, 0 * t])
        sizes = {k: np.full((21, 1), v) for k, v in (("length", 4.6), ("width", 1.9), ("height", 1.5))}
        state = {"position": at, "heading": 0 * t, "velocity": np.tile([speed, 0.0], (21, 1)), "valid": np.ones(21)}
        return {"type": kind, "state": state | sizes, "metadata": {}}

    def line(y: float) -> np.ndarray:
        x = np.linspace(0.0, 60.0, 13)
        return np.column_stack([x, np.full(13, y), 0 * x])

    whole = {
        "id": "s", "version": "1", "length": 21,
        "metadata": {"ts": t, "sdc_id": "ego", "dataset": "waymo", "scenario_id": "s"},
        "tracks": {"ego": track(5.0, 10.0, "VEHICLE"), "p": track(30.0, 0.0, "PEDESTRIAN")},
        "map_features": {"1": {"type": "LANE_SURFACE_STREET", "polyline": line(0.0), "exit_lanes": []},
                         "4": {"type": "ROAD_EDGE_BOUNDARY", "polyline": line(-3.0)}},
        "dynamic_map_states": {"1": {"type": "TRAFFIC_LIGHT", "lane": "1", "stop_point": line(0.0)[5],
                                     "state": {"object_state": ["LANE_STATE_STOP"] * 21}}},
    }  # fmt: skip
    seeds = [pickle.dumps(whole, protocol) for protocol in (0, 2, 3, 4, 5)]

    def spoil(dice: random.Random, data: bytes) -> bytes:
        return mutations.blind(dice, data) if dice.random() < 0.2 else mutations.pickle_steps(dice, data)

    return Reader(seeds, spoil, read_from(folder / "sd_x.pkl", read))


READERS: dict[str, Callable[[Path], Reader]] = {
    "safetensors": model_readers.tensors, "gguf": model_readers.gguf, "backbone_gguf": model_readers.backbone_gguf,
    "backbone_hf": model_readers.backbone_hf, "tokenizer": model_readers.tokenizer,
    "contract": model_readers.contract, "weights": model_readers.weights, "rules": _rules, "campaigns": _campaigns,
    "recipe": _recipe, "settings": _settings, "json": _json_files, "clip": _clip, "scenario": _scenario,
}  # fmt: skip
NATIVE = ("contract", "weights", "rules")
"""Readers that run our C++."""


def opened(name: str, folder: Path) -> Reader:
    """A reader by name, with a fresh folder for its own use."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return READERS[name](folder)
