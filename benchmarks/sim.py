"""Speed of the simulator, with and without cameras, beside three other simulators; prints one line of JSON.

    python -m benchmarks.sim [--quick] [--peers PYTHON]

64 scenes of 32 road users from a SUMO city are driven for 18 s at 10 Hz along plans of the rule-based planner, one
every 0.5 s; an ego-step is 0.1 s of one scene. Timed are `World.follow` and `World.advance` (the ego's tracker and
dynamics, all road users); `with_planner` adds `expert_plan`; `closed_loop` adds a picture of each ego at each step,
without the planner, `from_above` a bird's-eye map with as many pixels. Not timed: the city, packing, the start of a
world, the map's textures, compilation. Every figure is the best of several on all cores (or OMP_NUM_THREADS), and
`cpu_us` the lowest CPU time of an ego-step over all threads.

PYTHON is an interpreter with the extra `peers` (by default this one). It runs benchmarks/peers/*.py, one process per
core at the same time, with rates summed; the scripts say what they step and draw. Ratios compare whole machines. Exit
code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numba
import numpy as np

from benchmarks.figures import report
from benchmarks.peer import last_lines, missing, not_installed
from drivefoundry.compute import ONE_THREAD, cores
from drivefoundry.fleet.places import place_map
from drivefoundry.fleet.record import situations
from drivefoundry.fleet.sumo.city import run_city
from drivefoundry.render.bev import Bev
from drivefoundry.render.camera import Renderer
from drivefoundry.render.rig import Rig, View
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.sim.expert import expert_plan
from drivefoundry.sim.pack import Packed, pack
from drivefoundry.sim.world import Kind, World
from drivefoundry.types import Scene
from drivefoundry_car.vehicle.embodiment import CAR

Look = Callable[[World], object]
"""Draws what the egos see."""
TRAFFIC: tuple[Kind, ...] = ("replay", "reactive", "free")
STEP_TARGET, PICTURE_TARGET = 200_000, 6_000
"""Ego-steps per second among reactive traffic, without and with a 256x128 picture at each."""
PEERS = (("panda.py", "p3tinydisplay"), ("panda.py", "p3headlessgl"), ("meta_drive.py", "lidar"),
         ("meta_drive.py", "camera"), ("highway.py", "numbers"), ("highway.py", "pictures"))  # fmt: skip
"""Scripts and their arguments."""
MODULES = {"panda.py": "panda3d", "meta_drive.py": "metadrive", "highway.py": "highway_env"}
"""What each script imports."""
PEER_TARGETS = {
    "panda3d_pictures": 10, "panda3d_gl_pictures": 10, "metadrive": 50, "metadrive_pictures": 50, "highway": 50,
    "highway_pictures": 50,
}  # fmt: skip
"""Target ratios to each peer's ego-steps per second."""
ABOVE = 181
"""Pixels per side of a bird's-eye map: as many in total as 256x128."""
HERE = Path(__file__).parent / "peers"
PEER_S = 240.0
"""Maximum time of a peer, s."""


@dataclass(frozen=True)
class Size:
    """Amount of measurement: steps of a run, repeats, S of the main figures and of the curve, seconds of a peer."""

    steps: int = 180
    repeats: int = 3
    scenes: int = 64
    curve_scenes: tuple[int, ...] = (1, 4, 16, 64, 256)
    curve_agents: tuple[int, ...] = (8, 32, 128)
    curve_views: tuple[tuple[int, int], ...] = ((160, 64), (256, 128), (512, 256))
    curve_steps: int = 60
    peer_s: float = 8.0


QUICK = Size(
    steps=20, repeats=1, scenes=8, curve_scenes=(1, 8), curve_agents=(8, 32), curve_views=((160, 64), (256, 128)),
    curve_steps=10, peer_s=1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Times:
    """Duration of one run, s: wall and CPU of steps (with pictures, if any), and wall of plans.

    ego_steps: S x steps; agent_steps: summed over egos and all agents present.
    """

    ego_steps: int
    agent_steps: int
    wall: float
    cpu: float
    planning: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sim", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer scenes, steps and repeats: does it run at all?")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="interpreter that has the peers")
    asked = parser.parse_args()
    # As in the command line, before numba starts its threads: threads that spin while waiting slow the camera down.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    size = QUICK if asked.quick else Size()
    scenes = city_scenes(160, 160, max(size.curve_scenes))
    main_scenes = [cut(s, 32) for s in scenes[: size.scenes]]
    figures: dict[str, float] = {
        "scenes": len(main_scenes),
        "agents": float(np.mean([len(s.kind) for s in main_scenes])),
    }
    warm_up(main_scenes[:4])
    stepping(main_scenes, size, figures)
    closed_loop(main_scenes, size, figures)
    curve(scenes, size, figures)
    targets = own_targets(figures)
    versions = peers(asked.peers, main_scenes, size, figures, targets)
    print(report(figures, targets, versions), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def city_scenes(traffic: int, walkers: int, most: int) -> list[Scene]:
    """Scenes of 20 s of one city with the given numbers of other vehicles and people, most road users first."""
    log = run_city("place_a", 3, 60.0, 30, traffic, walkers)
    scenes = situations(log, place_map("place_a"), seconds=20.0, every=5.0)
    return sorted(scenes, key=lambda s: -len(s.kind))[:most]


def cut(scene: Scene, agents: int) -> Scene:
    """The ego and the nearest road users, `agents` in total."""
    few = slice(agents)
    return replace(scene, tracks=scene.tracks[few], valid=scene.valid[few], size=scene.size[few], kind=scene.kind[few])


def view(width: int, height: int) -> View:
    """The front camera at another size; pictures larger than the default's use one sample per pixel."""
    return replace(View().scaled(width, height), samples=1 if width > View().width else 2)


def run(packed: Packed, traffic: Kind, steps: int, look: Look | None = None) -> Times:
    """Drive all scenes along plans for `steps`, with a picture at each step, if `look` is given."""
    world = World(packed, traffic)
    wall = cpu = planning = 0.0
    others = 0
    for step in range(min(steps, int(world.steps_left().min()))):
        plan = None
        if step % CAR.decision_steps == 0:
            begun = time.perf_counter()
            plan = expert_plan(world)
            planning += time.perf_counter() - begun
        begun, busy = time.perf_counter(), time.process_time()
        if plan is not None:
            world.follow(plan)
        if look is not None:
            look(world)
        world.advance()
        wall, cpu = wall + time.perf_counter() - begun, cpu + time.process_time() - busy
        others += int(world.seen.sum())
    egos = world.step * len(packed.scenes)
    return Times(egos, egos + others, wall, cpu, planning)


def front(packed: Packed, width: int, height: int, threads: int | None = None) -> Look:
    """Front cameras of the given size, on `threads` threads."""
    maps = list({s.map.id: s.map for s in packed.scenes}.values())
    index = {m.id: i for i, m in enumerate(maps)}
    where = np.array([index[s.map.id] for s in packed.scenes])
    renderer = Renderer(maps, Rig((view(width, height),)), threads)
    return lambda world: renderer.render(snapshot(packed, world, where))


def above(packed: Packed) -> Look:
    """Bird's-eye maps with as many pixels as 256x128."""
    bev, where = Bev([packed.scenes[0].map], pixels=ABOVE), np.zeros(len(packed.scenes), np.int64)
    return lambda world: bev.render(snapshot(packed, world, where), world.ego_size, packed.route, packed.route_n)


def snapshot(packed: Packed, world: World, where: np.ndarray) -> Snapshot:
    """What the world shows now; where (S,): its scenes' maps."""
    return Snapshot(
        where, world.ego, world.agents, world.seen, packed.size, packed.kind, world.brake, world.signals_now()
    )


def best(packed: Packed, traffic: Kind, steps: int, repeats: int, look: Look | None = None) -> Times:
    """The fastest of several runs, with the lowest value of each time."""
    all_of = [run(packed, traffic, steps, look) for _ in range(repeats)]
    least = {name: min(getattr(t, name) for t in all_of) for name in ("wall", "cpu", "planning")}
    return replace(all_of[0], **least)


def warm_up(scenes: list[Scene]) -> None:
    """Compile all kernels."""
    packed = pack(scenes)
    for traffic in TRAFFIC:
        run(packed, traffic, 10)
    for look in (front(packed, 256, 128), above(packed)):
        run(packed, "reactive", 5, look)


def stepping(scenes: list[Scene], size: Size, figures: dict[str, float]) -> None:
    """Measure without cameras in each kind of traffic; runs take milliseconds, so three times as many."""
    packed = pack(scenes)
    for traffic in TRAFFIC:
        took = best(packed, traffic, size.steps, 3 * size.repeats)
        tell(figures, f"{traffic}_ego_steps_per_s", took.ego_steps / took.wall, took.cpu / took.ego_steps)
        figures[f"{traffic}_agent_steps_per_s"] = took.agent_steps / took.wall
        figures[f"{traffic}_cpu_us_per_ego_step"] = 1e6 * took.cpu / took.ego_steps
        figures[f"{traffic}_with_planner_ego_steps_per_s"] = took.ego_steps / (took.wall + took.planning)


def closed_loop(scenes: list[Scene], size: Size, figures: dict[str, float]) -> None:
    """Measure with one front camera, or a bird's-eye map, at each step."""
    packed = pack(scenes)
    looks = {f"closed_loop_{w}x{h}": front(packed, w, h) for w, h in ((256, 128), (160, 64))}
    for name, look in (looks | {"from_above": above(packed)}).items():
        took = best(packed, "reactive", size.steps, size.repeats, look)
        tell(figures, f"{name}_ego_steps_per_s", took.ego_steps / took.wall, took.cpu / took.ego_steps)
        figures[f"{name}_cpu_us_per_ego_step"] = 1e6 * took.cpu / took.ego_steps


def curve(scenes: list[Scene], size: Size, figures: dict[str, float]) -> None:
    """Cost of scenes, road users, pixels and threads, one at a time, among reactive traffic."""
    crowd = city_scenes(700, 700, size.scenes)
    every = numba.get_num_threads()
    middle = pack([cut(s, 32) for s in scenes[: size.scenes]])
    for threads in sorted({1, every}):
        numba.set_num_threads(threads)
        for name, packed in packs(scenes, crowd, size):
            took = best(packed, "reactive", size.curve_steps, 3 * size.repeats)
            tell(
                figures,
                f"{name}_threads_{threads}_ego_steps_per_s",
                took.ego_steps / took.wall,
                took.cpu / took.ego_steps,
            )
        for width, height in size.curve_views:
            took = best(middle, "reactive", size.curve_steps, size.repeats, front(middle, width, height, threads))
            tell(
                figures,
                f"view_{width}x{height}_threads_{threads}_ego_steps_per_s",
                took.ego_steps / took.wall,
                took.cpu / took.ego_steps,
            )
    numba.set_num_threads(every)


def packs(scenes: list[Scene], crowd: list[Scene], size: Size) -> Iterator[tuple[str, Packed]]:
    """Batches of the curve with their names: numbers of scenes, then numbers of road users of a crowded city."""
    for n in size.curve_scenes:
        yield f"scenes_{n}", pack([cut(s, 32) for s in scenes[:n]])
    for n in size.curve_agents:
        some = [cut(s, n) for s in crowd if len(s.kind) >= n]
        if len(some) == size.scenes:
            yield f"agents_{n}", pack(some)
        else:
            say(f"agents_{n}: only {len(some)} scenes have that many near: left out")


def own_targets(figures: dict[str, float]) -> dict[str, tuple[float, float, bool]]:
    bounds = {"reactive_ego_steps_per_s": STEP_TARGET, "closed_loop_256x128_ego_steps_per_s": PICTURE_TARGET}
    return {name: (figures[name], bound, figures[name] >= bound) for name, bound in bounds.items()}


def peers(
    python: str,
    scenes: list[Scene],
    size: Size,
    figures: dict[str, float],
    targets: dict[str, tuple[float, float, bool]],
) -> dict[str, str]:
    """Add peers' figures and our ratios to them; returns their versions. A peer that is not installed or fails is left
    out, and stderr says which."""
    versions: dict[str, str] = {}
    absent = missing(python, *MODULES.values())
    if absent:
        say(not_installed(python, absent))
    with tempfile.TemporaryDirectory(prefix="drivefoundry-peers-") as folder:
        film = Path(folder, "film.npz")
        export(scenes[:8], film, 40)
        for script, what in PEERS:
            if MODULES[script] in absent:
                continue
            told = at_once([python, "-P", str(HERE / script), str(size.peer_s), what, str(film)])
            for name in told[0]["figures"] if told else ():
                compare(name, [one["figures"][name] for one in told], figures, targets)
            versions |= told[0]["versions"] if told else {}
    return versions


def compare(
    name: str, runs: list[list[float]], figures: dict[str, float], targets: dict[str, tuple[float, float, bool]]
) -> None:
    """Store a peer's figures and ratios, given steps per second and CPU seconds per step of each of its processes."""
    theirs, cpu = sum(rate for rate, _ in runs), min(spent for _, spent in runs)
    tell(figures, f"{name}_steps_per_s", theirs, cpu)
    figures[f"{name}_cpu_us_per_step"] = 1e6 * cpu
    ours = {"": "closed_loop_256x128" if name.endswith("pictures") else "reactive"}
    if name.startswith("highway") and name.endswith("pictures"):
        ours["_from_above"] = "from_above"
    for kind, mine in ours.items():
        ratio = tell(figures, f"{name}{kind}_ratio", figures[f"{mine}_ego_steps_per_s"] / theirs)
        tell(figures, f"{name}{kind}_cpu_ratio", 1e6 * cpu / figures[f"{mine}_cpu_us_per_ego_step"])
        if name in PEER_TARGETS:
            targets[f"{name}{kind}_ratio"] = (ratio, PEER_TARGETS[name], ratio >= PEER_TARGETS[name])


def at_once(command: list[str]) -> list[dict]:
    """Output of one process per core, run at the same time; nothing, and a line that says why, if one fails."""
    quiet = os.environ | ONE_THREAD | {"LP_NUM_THREADS": "0"}
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet)
        for _ in range(cores())
    ]
    told, why = [], ""
    for process in started:
        try:
            out, err = process.communicate(timeout=PEER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"\ntook more than {PEER_S:.0f} s"
        if process.returncode == 0:
            told.append(json.loads(out.splitlines()[-1]))
        else:
            why = f"exit code {process.returncode}; its last lines:\n{last_lines(err)}"
    if why:
        say(f"{Path(command[2]).name} {command[4]}: left out: {why}")
    return [] if why else told


def export(scenes: list[Scene], film: Path, steps: int) -> None:
    """Write what a renderer needs to draw the same scenes: city, lens, and all poses at each step of a run."""
    packed = pack(scenes)
    world = World(packed)
    ego, agents, seen = [], [], []
    for step in range(steps):
        if step % CAR.decision_steps == 0:
            world.follow(expert_plan(world))
        ego.append(world.ego[:, :3].copy())
        agents.append(world.agents.copy())
        seen.append(world.seen.copy())
        world.advance()
    city, lens = scenes[0].map, view(256, 128)
    assert all(s.map.id == city.id for s in scenes)
    shapes = {name: getattr(city, name) for name in ("drivable", "sidewalks", "crosswalks", "lines")}
    np.savez(
        film, ego=np.stack(ego, 1), agents=np.stack(agents, 2), seen=np.stack(seen, 2), size=packed.size,
        lens=np.array([lens.fx, lens.cx, lens.cy, lens.x, lens.z]), line_kind=city.line_kind,
        stop_lines=city.stop_lines, buildings=city.buildings,
        **{name: shape.points[:, :2] for name, shape in shapes.items()},
        **{f"{name}_offsets": shape.offsets for name, shape in shapes.items()},
    )  # fmt: skip


def tell(figures: dict[str, float], name: str, value: float, cpu: float | None = None) -> float:
    """Store and print a figure with CPU seconds per step, if known, and the machine's load; returns the figure."""
    figures[name] = value
    spent = "" if cpu is None else f"{1e6 * cpu:9.2f} us CPU each"
    say(f"{name:<56} {value:>12,.1f} {spent:<22} load {os.getloadavg()[0]:.1f}")
    return value


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
