"""Sources of situations, turn by turn: the embedded SUMO city, or recorded traffic scenes. Both produce drives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from drivefoundry.clips.importers.folder import fingerprint, kind_for, scenes_in
from drivefoundry.clips.importers.traffic.recording import AHEAD_S, is_short, left_of, not_read
from drivefoundry.compute import pmap
from drivefoundry.curate.excerpts import linked
from drivefoundry.curate.split import hold_out
from drivefoundry.fleet.config import FleetConfig
from drivefoundry.fleet.places import place_map
from drivefoundry.fleet.record import record_drives, situations
from drivefoundry.fleet.sumo.city import CityLog, run_city
from drivefoundry.fleet.supervised import record_supervised
from drivefoundry.judge.difficulty import Difficulty, compared, difficulty, likeness, recording_of
from drivefoundry.judge.gate import scene_content
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.progress import bar
from drivefoundry.roadmap import save_map
from drivefoundry.seeds import derive
from drivefoundry.sim.policies import CarPolicy, LogReplay
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.ingest import ingest, write_json
from drivefoundry.stages.label import clip_ids, listed, scenes_of
from drivefoundry.stages.ship import engine_in
from drivefoundry.types import Policy, Scene, require
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.vehicle.embodiment import Embodiment

VAL_SHARE, VAL_OUTINGS = 0.1, 40
"""Share of recorded scenes that validate, and how many of them at most are driven for it."""
EGOS = 12
"""Maximum number of recorded vehicles per file that become the ego of a scene."""


@dataclass(frozen=True)
class _City:
    place: str
    seed: int
    seconds: float
    cars: int
    traffic: int
    pedestrians: int
    body: Embodiment


def _live(city: _City) -> CityLog:
    return run_city(city.place, city.seed, city.seconds, city.cars, city.traffic, city.pedestrians, city.body.size)


def _lives(
    fleet: FleetConfig, body: Embodiment, places: tuple[str, ...], seconds: float, purpose: str, turn: int = 1
) -> list[CityLog]:
    """One CityLog per place; SUMO runs in separate processes, two at a time."""
    cities = [
        _City(p, derive(fleet.seed, purpose, turn, p), seconds, fleet.cars, fleet.traffic, fleet.pedestrians, body)
        for p in places
    ]
    with bar("cities", len(cities)) as advance:
        return pmap(_live, cities, backend="threads", workers=2, on_done=lambda *_: advance())


def record_city(
    fleet: FleetConfig, body: Embodiment, places: tuple[str, ...], seconds: float, purpose: str, out: Path
) -> dict:
    """Human drivers: write out/drives/*.mcap of every recording car of the places, and out/maps/<id>.safetensors."""
    fresh(out)
    for sub in ("drives", "maps"):
        (out / sub).mkdir()
    logs = _lives(fleet, body, places, seconds, purpose)
    written: list[Path] = []
    with bar("recordings", len(logs)) as advance:
        for log in logs:
            road_map = place_map(log.place)
            (out / "maps" / f"{road_map.id}.safetensors").write_bytes(save_map(road_map))
            written += record_drives(log, road_map, out / "drives", body=body, purpose=purpose)
            advance()
    return {
        "drives": len(written),
        "car_seconds": round(len(written) * seconds),
        "bytes": sum(p.stat().st_size for p in written),
    }


def record_outings(
    fleet: FleetConfig, body: Embodiment, perception: Perception, turn: int, car: Path, out: Path
) -> dict:
    """The release drives in cities with new demand; writes drives as `record_scenes` does."""
    seconds = 20.0 * max(1, -(-fleet.outings // (len(fleet.places) * fleet.cars)))
    logs = _lives(fleet, body, fleet.places, seconds, "outings", turn)
    found = [s for log in logs for s in situations(log, place_map(log.place))]
    return record_scenes(fleet, body, found, car, out, perception)


def record_scenes(
    fleet: FleetConfig,
    body: Embodiment,
    scenes: list[Scene],
    car: Path | None,
    out: Path,
    perception: Perception | None = None,
) -> dict:
    """Drive at most `fleet.outings` of the scenes; write out/drives/*.mcap and out/maps.

    The car's release drives, with a safety driver; without a car, the human driver of the recording does.
    """
    fresh(out)
    for sub in ("drives", "maps"):
        (out / sub).mkdir()
    chosen = scenes[:: max(1, len(scenes) // fleet.outings)][: fleet.outings]
    for road_map in {s.map.id: s.map for s in chosen}.values():
        (out / "maps" / f"{road_map.id}.safetensors").write_bytes(save_map(road_map))
    policy: Policy = LogReplay()
    release = None
    if car is not None:
        engine, release = engine_in(car)
        policy = CarPolicy(Runtime.load(engine, reason_every=0, vehicle=body, patient=True), f"release {release[:12]}")
    with bar("outings", len(chosen)) as advance:
        rows = record_supervised(
            policy,
            chosen,
            out / "drives",
            release,
            body=body,
            perception=perception,
            seconds=fleet.outing_seconds,
            on_drive=lambda n: advance(n),
        )
    km = sum(r["km"] for r in rows)
    takeovers = sum(r["takeovers"] for r in rows)
    write_json(out / "outings.json", {"rows": rows, "km": km, "takeovers": takeovers})
    figures = {"drives": len(rows), "km": km}
    return figures if car is None else figures | {"takeovers": takeovers, "takeovers_per_km": takeovers / max(km, 1e-6)}


def fleet_of(line: RunContext) -> FleetConfig:
    """The fleet of a run, with the seed of this run."""
    f = line.recipe.fleet
    return replace(f, seed=line.seed("fleet", f.seed))


class Source(Protocol):
    """Where the loop gets its situations and its exam."""

    name: str

    def lacks(self) -> list[str]:
        """Sentences for the report about what the source does not contain."""
        ...

    def exam(self, line: RunContext) -> Artefact: ...

    def validation(self, line: RunContext) -> Artefact | None:
        """Clips for validation during training; None if the source has no separate ones."""
        ...

    def exam_clips(self, exam: Artefact) -> list[str]:
        """Clips of the exam, which must not be used for training."""
        ...

    def scenes(self, line: RunContext, split: Artefact) -> list[Scene]:
        """Scenes of the exam, or of another split of the same kind."""
        ...

    def drives(self, line: RunContext, turn: int, car: Artefact | None) -> Artefact:
        """Recordings of one turn; people drive as long as there is no car."""
        ...


class EmbeddedCity:
    """Situations of the embedded city: people drive in turn 1, then the last release; the exam is another city."""

    name = "embedded fleet in SUMO cities"

    def lacks(self) -> list[str]:
        """Nothing: the simulator knows everything."""
        return []

    def exam(self, line: RunContext) -> Artefact:
        """Recordings of the held-out city, all uploaded."""
        f, body = fleet_of(line), line.body
        made_from = {"fleet": f, "embodiment": body.to_dict()}
        drives = line.make(
            None, "fleet", "exam_drives", made_from, [],
            lambda d: record_city(f, body, (f.held_out,), f.held_out_seconds, "evaluation", d),
        )  # fmt: skip
        return ingest(line, None, drives)

    def validation(self, line: RunContext) -> Artefact | None:
        """Clips of the validation place."""
        f, body = fleet_of(line), line.body
        fewer = replace(f, cars=f.val_cars)
        drives = line.make(
            None, "fleet", "val_drives", {"fleet": f, "embodiment": body.to_dict()}, [],
            lambda d: record_city(fewer, body, (f.val,), f.val_seconds, "validation", d),
        )  # fmt: skip
        return ingest(line, None, drives, "val")

    def exam_clips(self, exam: Artefact) -> list[str]:
        return listed(exam)

    def scenes(self, line: RunContext, split: Artefact) -> list[Scene]:
        return scenes_of(line.store, clip_ids(split.path))

    def drives(self, line: RunContext, turn: int, car: Artefact | None) -> Artefact:
        f, body = fleet_of(line), line.body
        made_from = {"fleet": f, "embodiment": body.to_dict()}
        if car is None:
            return line.make(
                turn, "fleet", "fleet", made_from, [],
                lambda d: record_city(f, body, f.places, f.seconds, "fleet", d),
            )  # fmt: skip
        perception = line.perception
        return line.make(
            turn, "fleet", "outings", made_from | {"perception": perception}, [car],
            lambda d: record_outings(f, body, perception, turn, car.path, d),
        )  # fmt: skip


class RecordedTraffic:
    """Recorded traffic: the recorded people drive in turn 1, then the last release; the exam is another place."""

    def __init__(self, folder: Path):
        kind_for(folder, "scenes")
        self.folder = folder
        self.likeness = ""
        """A sentence that compares the exam with the source; known once there is an exam."""
        self.name = f"recorded traffic: {folder.resolve().name}"

    @cached_property
    def read(self) -> tuple[list[Scene], dict[str, str], int]:
        """All scenes that are long enough to drive, without duplicates; why some files gave none; number of duplicates.

        Takes seconds, but is not needed for artefacts that exist. Files that differ only in their planning problem hold
        the same traffic, which would count twice.
        """
        every, refused = scenes_in(self.folder, egos=EGOS)
        scenes = [s for s in every if not is_short(s)]
        refused |= {s.id: f"under {AHEAD_S:.0f} s to drive" for s in every if is_short(s)}
        why = "; ".join(f"{file}: {reason}" for file, reason in list(refused.items())[:3])
        require(len(scenes) > 0, f"{self.folder}: none of its files gives a scene ({why})")
        once = {scene_content(s): s for s in reversed(scenes)}
        return list(reversed(once.values())), refused, len(scenes) - len(once)

    @cached_property
    def difficulty(self) -> Difficulty:
        """Difficulty of all scenes; it requires driving them, so it is computed only to build the exam."""
        return difficulty(self.read[0])

    @cached_property
    def held_out(self) -> list[str]:
        """Places of the exam, chosen to resemble the whole source as closely as possible; known once there is an
        exam."""
        return hold_out([s.place for s in self.read[0]], self.difficulty.stratum, self.difficulty.score)

    @cached_property
    def val(self) -> list[str]:
        """Recordings of the validation samples: about a tenth of the scenes that are not held out. They are whole
        places if that leaves at least two places to train on, else recordings with those that overlap. A place or
        recording with more than half of the scenes always trains; empty if nothing else is left."""
        rest = [s for s in self.read[0] if s.place not in self.held_out]
        if len({s.place for s in rest}) > 2:
            groups = _grouped(rest, lambda s: s.place)
        else:
            group = linked(_grouped(rest, recording_of))
            groups = _grouped(rest, lambda s: group[recording_of(s)])
        chosen: list[Scene] = []
        for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest(), reverse=True):
            most = len(rest) / 2 if len(chosen) < VAL_SHARE * len(rest) else 0
            if len(chosen) + len(groups[name]) <= most:
                chosen += groups[name]
        return sorted({recording_of(s) for s in chosen})

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.folder)

    def lacks(self) -> list[str]:
        """What these recordings do not contain."""
        out = ["No camera was recorded: what the model sees is rendered from the map and the tracks."]
        scenes, refused, again = self.read
        if not any(len(s.signals) for s in scenes):
            out.append("No traffic lights were recorded: people stop at lights that neither camera nor map can show.")
        out.append(
            f"Held out by place: {_few(self.held_out)}. {self.likeness} "
            "The ego of a scene is a recorded vehicle, named in the scene's id."
        )
        if not self.val:
            out.append(
                "No validation samples: more than half of what remains for training is one recording; add recordings."
            )
        if again:
            out.append(f"{again} of {len(scenes) + again} scenes are in several files; they count once.")
        return out + not_read(map(left_of, scenes)) + [f"{file}: {why}" for file, why in refused.items() if why]

    def exam(self, line: RunContext) -> Artefact:
        """The held-out scenes' ids and hashes, as an artefact so that scores depend on them, and how they compare with
        the whole source."""

        def build(out: Path) -> dict:
            scenes = self._scenes("held_out")
            table = compared(self.read[0], self.difficulty, self.held_out)
            ids = {s.id: scene_content(s) for s in scenes}
            split = {"scenes": ids, "held_out": self.held_out, "val": self.val}
            write_json(out / "exam.json", {**split, "compared": table})
            return {"scenes": len(scenes), "place": _few(self.held_out), "of": len(self.read[0])} | {
                name if side == "exam" else f"{name}_of_source": table[name][side]
                for name in ("recordings", "constant_velocity_score")
                for side in ("exam", "source")
            }

        made = line.make(None, "import", "exam", {"folder": self.fingerprint}, [], build)
        if not made.id:  # a dry run does not know the split yet, and expects validation samples
            vars(self).update(held_out=[], val=[""])
            return made
        kept = json.loads((made.path / "exam.json").read_text())
        vars(self).update(held_out=kept["held_out"], val=kept["val"])
        self.likeness = likeness(kept["compared"])
        return made

    def validation(self, line: RunContext) -> Artefact | None:
        """Clips of the validation recordings, driven by the recorded people; None if there is one recording only."""
        if not self.val:
            return None
        f, body = replace(fleet_of(line), outings=VAL_OUTINGS), line.body
        made_from = {"fleet": f, "embodiment": body.to_dict(), "folder": self.fingerprint, "val": self.val}
        drives = line.make(
            None, "fleet", "val_drives", made_from, [],
            lambda d: record_scenes(f, body, self._scenes("val"), None, d),
        )  # fmt: skip
        return ingest(line, None, drives, "val")

    def exam_clips(self, exam: Artefact) -> list[str]:
        return []

    def scenes(self, line: RunContext, split: Artefact) -> list[Scene]:
        """The held-out scenes in an order that mixes recordings, since a judgement may use only the first ones."""
        return sorted(self._scenes("held_out"), key=lambda s: hashlib.sha256(s.id.encode()).hexdigest())

    def drives(self, line: RunContext, turn: int, car: Artefact | None) -> Artefact:
        f, body = fleet_of(line), line.body
        kind, parents = ("outings", [car]) if car else ("fleet", [])
        perception = line.perception

        def build(out: Path) -> dict:
            return record_scenes(f, body, self._scenes("train"), car.path if car else None, out, perception)

        made_from = {"fleet": f, "embodiment": body.to_dict(), "folder": self.fingerprint, "held_out": self.held_out}
        made_from |= {"val": self.val}
        made_from |= {"perception": perception} if car else {}
        return line.make(turn, "fleet", kind, made_from, parents, build)

    def _scenes(self, split: Literal["train", "val", "held_out"]) -> list[Scene]:
        return [s for s in self.read[0] if self._split(s) == split]

    def _split(self, scene: Scene) -> str:
        if scene.place in self.held_out:
            return "held_out"
        return "val" if recording_of(scene) in self.val else "train"


def _grouped(scenes: list[Scene], key: Callable[[Scene], str]) -> dict[str, list[Scene]]:
    out: dict[str, list[Scene]] = {}
    for scene in scenes:
        out.setdefault(key(scene), []).append(scene)
    return out


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
