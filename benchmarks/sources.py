"""Soundness of imported traffic from every source, driven by its own people and by rules; prints one line of JSON.

    python -m benchmarks.sources --data DIR [--quick] [--egos N]

DIR holds folders of recorded traffic, one per source (CommonRoad, Waymo Open Motion, ScenarioNet). For each: number of
files and scenes; how often log replay is at fault or off the road; driving scores of the rule-based route follower and
of constant velocity, as the judge computes them; deviation of the simulated car from the log that it tracks. A scene in
which log replay breaks a rule must be explained by the recording itself: boxes that overlap in it, or corners of the
logged box off the mapped road. Those lines go to stderr. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import report
from drivefoundry.clips.importers.folder import format_of, scene_files, scenes_in
from drivefoundry.clips.importers.traffic.recording import is_short
from drivefoundry.edges import unknown_ground
from drivefoundry.geometry import box_corners, boxes_overlap
from drivefoundry.judge.evaluate import evaluate, yardstick
from drivefoundry.judge.gate import scene_content
from drivefoundry.raster import DRIVABLE, ground_raster
from drivefoundry.sim.policies import ConstantVelocity, LogReplay, RouteFollower
from drivefoundry.types import DT, Policy, Scene

QUICK_FILES = 6
DEEPEST = 10.0
"""Largest reported distance from the road, m."""
AT_FAULT, ON_ROAD = 0.01, 0.97
"""Maximum share of unexplained log replays at fault, and minimum share on the road."""


def main() -> int:
    """Measure and print the report; the exit code says whether every target was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds folders of recorded traffic")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FILES} files a source")
    parser.add_argument("--egos", type=int, default=4, help="scenes of one file, at most")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    targets: dict[str, tuple[float, float, bool]] = {}
    for folder in sorted(p for p in args.data.iterdir() if p.is_dir()):
        files = scene_files(folder)
        if files:
            name = format_of(files[0])
            assert name is not None
            some = files[:: -(-len(files) // QUICK_FILES)] if args.quick else files
            measure(name.lower(), some, args.egos, figures, targets)
    if not figures:
        raise SystemExit(f"{args.data}: no folder of recorded traffic in it")
    print(report(figures, targets), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def measure(name: str, files: list[Path], egos: int, figures: dict, targets: dict) -> None:
    """Measure figures and targets of one source."""
    start = time.perf_counter()
    scenes, with_scenes = [], 0
    for file in files:
        some, refused = scenes_in(file, egos=egos)
        scenes += some
        with_scenes += bool(some)
        for why in refused.values():
            say(f"{name}: {file.name}: {why}")
    seconds = time.perf_counter() - start
    whole = list({scene_content(s): s for s in scenes if not is_short(s)}.values())
    goal = yardstick(whole)
    drivers: tuple[Policy, ...] = (LogReplay(), RouteFollower(), ConstantVelocity())
    scores = {p.name: evaluate(p, whole, reference=goal, two_stages=False).scores for p in drivers}
    log = scores[LogReplay.name]
    reasons = [explained(s, at_fault, off_road) for s, at_fault, off_road in
               zip(whole, log["at_fault_collision"] > 0, log["off_road"] > 0, strict=True)]  # fmt: skip
    for scene, why in zip(whole, reasons, strict=True):
        for text in why.values():
            say(f"{name}: {scene.id}: {text}")
    at_fault = np.mean([w.get("at_fault", "").startswith("UNEXPLAINED") for w in reasons])
    off_road = np.mean([w.get("off_road", "").startswith("UNEXPLAINED") for w in reasons])
    figures |= {
        f"{name}_files": len(files), f"{name}_files_with_scenes": with_scenes, f"{name}_scenes": len(scenes),
        f"{name}_scenes_judged": len(whole), f"{name}_read_s_per_file": seconds / len(files),
        f"{name}_with_lights": sum(bool(s.signals.any()) for s in whole),
        f"{name}_log_at_fault": log["at_fault_collision"].mean(), f"{name}_log_collision": log["collision"].mean(),
        f"{name}_log_on_road": 1.0 - log["off_road"].mean(), f"{name}_log_red_light": log["red_light"].mean(),
        f"{name}_log_at_fault_unexplained": at_fault, f"{name}_log_off_road_unexplained": off_road,
        f"{name}_tracking_max_m": log["tracking_max"].max(), f"{name}_tracking_mean_m": log["tracking_mean"].mean(),
    }  # fmt: skip
    for policy, score in scores.items():
        for metric in ("driving_score_21", "pdms", "at_fault_collision", "off_road", "unmapped_share", "progress"):
            figures[f"{name}_{policy.replace(' ', '_').replace('-', '_')}_{metric}"] = score[metric].mean()
    rules, straight = (scores[p.name]["driving_score_21"].mean() for p in (RouteFollower, ConstantVelocity))
    targets |= {
        f"{name}_files_with_scenes": (with_scenes, len(files), with_scenes == len(files)),
        f"{name}_log_at_fault_unexplained": (at_fault, AT_FAULT, bool(at_fault <= AT_FAULT)),
        f"{name}_log_on_road_unexplained": (1.0 - off_road, ON_ROAD, bool(1.0 - off_road >= ON_ROAD)),
        f"{name}_rules_above_constant_velocity": (rules, straight, bool(rules > straight)),
    }  # fmt: skip


def explained(scene: Scene, at_fault: bool, off_road: bool) -> dict[str, str]:
    """Why log replay breaks a rule in a scene, from the recording alone; UNEXPLAINED if the recording is clean."""
    out = {}
    track = scene.tracks[scene.ego].astype(np.float64)
    steps = np.flatnonzero(scene.valid[scene.ego])
    steps = steps[steps >= scene.start]
    if at_fault:
        hit = first_overlap(scene, steps)
        out["at_fault"] = (
            f"in the recording its box overlaps agent {hit[1]} at {hit[0] * DT:.1f} s" if hit
            else "UNEXPLAINED collision at fault"
        )  # fmt: skip
    if off_road:
        at, deep = first_off_road(scene, track, steps)
        out["off_road"] = (
            f"in the recording its box is up to {deep:.1f} m beside the mapped road, first at {at * DT:.1f} s, "
            f"({track[at, 0]:.0f}, {track[at, 1]:.0f}) m" if at >= 0 else "UNEXPLAINED leaving of the road"
        )  # fmt: skip
    return out


def first_overlap(scene: Scene, steps: np.ndarray) -> tuple[int, int] | None:
    """Step and agent of the first overlap of recorded boxes, None if there is none."""
    boxes = np.concatenate(
        [scene.tracks[..., :3], np.broadcast_to(scene.size[:, None, :2], (*scene.valid.shape, 2))], 2
    )
    for t in steps:
        mine = [float(v) for v in boxes[scene.ego, t]]
        for a in np.flatnonzero(scene.valid[:, t]):
            if a != scene.ego and boxes_overlap(*mine, *[float(v) for v in boxes[a, t]]):  # pyright: ignore
                return int(t), int(a)
    return None


def first_off_road(scene: Scene, track: np.ndarray, steps: np.ndarray) -> tuple[int, float]:
    """First step at which a corner of the recorded box is off the drivable area (-1 if none), and the largest distance
    from it, m, up to DEEPEST."""
    raster = ground_raster(scene.map)
    road = DRIVABLE[raster.classes]
    unknown = unknown_ground(scene.map)
    road = road if unknown is None else road | unknown
    first, deepest, reach = -1, 0.0, round(DEEPEST / raster.resolution)
    corners, size = np.empty((4, 2)), scene.size[scene.ego].astype(np.float64)
    for t in steps:
        box_corners(track[t, 0], track[t, 1], track[t, 2], size[0], size[1], corners)
        for col, row in ((corners - (raster.origin_x, raster.origin_y)) / raster.resolution).astype(int):
            top, left = max(0, row - reach), max(0, col - reach)
            rows, cols = np.nonzero(road[top : row + reach + 1, left : col + reach + 1])
            away = np.hypot(rows + top - row, cols + left - col).min() * raster.resolution if len(rows) else DEEPEST
            if away > 0.0:
                first, deepest = (int(t) if first < 0 else first), max(deepest, min(float(away), DEEPEST))
    return first, deepest


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
