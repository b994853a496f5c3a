"""Where situations come from, turn by turn: the embedded SUMO city, or recorded traffic scenes. Drives out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drivefoundry.compute import pmap
from drivefoundry.fleet.city import CityLog, run_city
from drivefoundry.fleet.places import place_map
from drivefoundry.fleet.record import record_drives, situations
from drivefoundry.fleet.supervised import record_supervised
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.line import CAR, FLEET, HOME, Line
from drivefoundry.progress import bar
from drivefoundry.recipes import Fleet
from drivefoundry.roadmap import save_map
from drivefoundry.sim.policies import CarPolicy
from drivefoundry.stages.home import send_home, write_json
from drivefoundry.stages.label import clip_ids
from drivefoundry.stages.score import scenes_of
from drivefoundry.stages.ship import engine_in
from drivefoundry.types import Scene
from drivefoundry_car.runtime import Runtime

SEED_A_TURN = 1000
"""Seeds of one turn and the next never meet."""


@dataclass(frozen=True)
class _City:
    place: str
    seed: int
    seconds: float
    cars: int
    traffic: int
    pedestrians: int


def _live(city: _City) -> CityLog:
    return run_city(city.place, city.seed, city.seconds, city.cars, city.traffic, city.pedestrians)


def _lives(fleet: Fleet, places: tuple[str, ...], seconds: float, turn: int) -> list[CityLog]:
    """One CityLog a place; SUMO runs in processes of its own, two at a time."""
    wanted = [
        _City(p, fleet.seed + SEED_A_TURN * turn + i, seconds, fleet.cars, fleet.traffic, fleet.pedestrians)
        for i, p in enumerate(places)
    ]
    with bar("cities", len(wanted)) as advance:
        return pmap(_live, wanted, backend="threads", workers=2, on_done=lambda *_: advance())


def record_city(fleet: Fleet, places: tuple[str, ...], seconds: float, purpose: str, out: Path) -> dict:
    """People at the wheel: out/drives/*.mcap of every recording car of the places, out/maps/<id>.npz."""
    fresh(out)
    for sub in ("drives", "maps"):
        (out / sub).mkdir()
    logs = _lives(fleet, places, seconds, 0 if purpose == "fleet" else 9)
    written: list[Path] = []
    with bar("recordings", len(logs)) as advance:
        for log in logs:
            road_map = place_map(log.place)
            (out / "maps" / f"{road_map.id}.npz").write_bytes(save_map(road_map))
            written += record_drives(log, road_map, out / "drives", purpose=purpose)
            advance()
    return {
        "drives": len(written),
        "car_seconds": round(len(written) * seconds),
        "bytes": sum(p.stat().st_size for p in written),
    }


def record_outings(fleet: Fleet, turn: int, car: Path, out: Path, scenes: Callable[[int], list[Scene]] | None = None) -> dict:
    """The release at the wheel, a safety driver beside it: out/drives/*.mcap of `fleet.outings` outings, out/maps.

    Situations are cut from cities with new demand, or given by `scenes(turn)`.
    """
    fresh(out)
    for sub in ("drives", "maps"):
        (out / sub).mkdir()
    if scenes is None:
        seconds = 20.0 * max(1, -(-fleet.outings // (len(fleet.places) * fleet.cars)))
        found = [s for log in _lives(fleet, fleet.places, seconds, turn) for s in situations(log, place_map(log.place))]
    else:
        found = scenes(turn)
    chosen = found[:: max(1, len(found) // fleet.outings)][: fleet.outings]
    for road_map in {s.map.id: s.map for s in chosen}.values():
        (out / "maps" / f"{road_map.id}.npz").write_bytes(save_map(road_map))
    engine, release = engine_in(car)
    policy = CarPolicy(Runtime.load(engine, reason_every=0), f"release {release[:12]}")
    with bar("outings", len(chosen)) as advance:
        rows = record_supervised(
            policy, chosen, out / "drives", release, seconds=fleet.outing_seconds, on_drive=lambda n: advance(n)
        )
    km = sum(r["km"] for r in rows)
    takeovers = sum(r["takeovers"] for r in rows)
    write_json(out / "outings.json", {"rows": rows, "km": km, "takeovers": takeovers})
    return {"drives": len(rows), "km": km, "takeovers": takeovers, "takeovers_per_km": takeovers / max(km, 1e-6)}


class City:
    """Situations of the embedded city: people drive in turn 1, the last release after that; the exam is another city."""

    def exam(self, line: Line) -> Artefact:
        """Recordings of the held-out city, all of them at home."""
        f = line.recipe.fleet
        drives = line.make(None, "fleet", "exam_drives", f, [], FLEET,
                           lambda d: record_city(f, (f.held_out,), f.held_out_seconds, "evaluation", d))  # fmt: skip
        return line.make(None, "ingest", "exam", {"seed": f.seed}, [drives], HOME, lambda d: send_home(drives.path, line.store, f.seed, d))

    def exam_clips(self, exam: Artefact) -> list[str]:
        return clip_ids(exam.path)

    def exam_scenes(self, line: Line, exam: Artefact) -> list[Scene]:
        return scenes_of(line.store, clip_ids(exam.path))

    def drives(self, line: Line, turn: int, car: Artefact | None) -> Artefact:
        f = line.recipe.fleet
        if car is None:
            return line.make(turn, "fleet", "fleet", f, [], FLEET, lambda d: record_city(f, f.places, f.seconds, "fleet", d))
        return line.make(turn, "fleet", "outings", f, [car], (*FLEET, *CAR), lambda d: record_outings(f, turn, car.path, d))
