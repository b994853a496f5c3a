"""Steps per second of MetaDrive on one core: its procedural roads with traffic, with lidar or one 256x128 camera.

    python meta_drive.py SECONDS lidar|camera

A step is 0.1 s (five physics steps of 0.02 s); the ego is driven by its own planner for the lane ahead (`IDMPolicy`).
MetaDrive downloads textures and models on its first run; where that is impossible, simple stand-ins (one box, textures
of a single pixel) replace them: shaders, shadows, terrain and roads are still its own, and simpler assets can only make
it faster.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from panda3d.core import PNMImage, Texture, loadPrcFileData

loadPrcFileData("", "load-display p3headlessgl")

import metadrive.engine.base_engine as base_engine  # noqa: E402
from direct.filter.FilterManager import FilterManager  # noqa: E402
from direct.showbase.Loader import Loader  # noqa: E402
from metadrive import MetaDriveEnv  # noqa: E402
from metadrive.component.sensors.rgb_camera import RGBCamera  # noqa: E402
from metadrive.engine.asset_loader import AssetLoader  # noqa: E402
from metadrive.policy.idm_policy import IDMPolicy  # noqa: E402
from metadrive.version import VERSION  # noqa: E402

WIDTH, HEIGHT = 256, 128


def stand_in(folder: Path) -> None:
    """Let MetaDrive run without its assets: an empty folder of the right version, and a box for every model."""
    assets = folder / "assets"
    (assets / "textures/grass1").mkdir(parents=True)
    (assets / "textures/grass1/GroundGrassGreen002_COL_1K.jpg").touch()
    (folder / "shaders").symlink_to(Path(str(AssetLoader.asset_path)).parent / "shaders")
    AssetLoader.asset_path = PurePosixPath(assets)
    base_engine.asset_version = AssetLoader.asset_version = lambda *_: VERSION
    AssetLoader.should_update_asset = classmethod(lambda _: False)
    load_model = Loader.loadModel

    def texture(self, path, *_, **__):
        if "heightfield" in str(path):
            picture, made = PNMImage(2048, 2048, 1, 65535), Texture()
        else:
            picture, made = PNMImage(1, 1, 3), Texture()
            picture.fill(0.5)
        made.load(picture)
        return made

    Loader.loadTexture = texture
    Loader.loadModel = lambda self, path, *_, **__: load_model(self, "models/box")


def one_sample() -> None:
    """MetaDrive requests at least 16 samples per pixel, Mesa's software renderer supports at most 4; and one is
    eighteen times as fast as four."""
    render = FilterManager.renderSceneInto

    def fewer(self, *args, fbprops, **more):
        fbprops.setMultisamples(0)
        return render(self, *args, fbprops=fbprops, **more)

    FilterManager.renderSceneInto = FilterManager.render_scene_into = fewer


def main() -> None:
    seconds, sees = float(sys.argv[1]), sys.argv[2]
    config = dict(num_scenarios=10, start_seed=0, log_level=logging.CRITICAL, horizon=1000, agent_policy=IDMPolicy)
    if sees == "camera":
        camera = dict(rgb_camera=(RGBCamera, WIDTH, HEIGHT))
        config |= dict(image_observation=True, sensors=camera, vehicle_config=dict(image_source="rgb_camera"))
        config |= dict(stack_size=1, norm_pixel=False, preload_models=False)
        one_sample()
    whole = os.path.exists(AssetLoader.file_path("version.txt", unix_style=False))
    with tempfile.TemporaryDirectory() as folder:
        if not whole:
            stand_in(Path(folder))
        env = MetaDriveEnv(config)
        env.reset(seed=0)
        runs = [rate(env, seconds / 3) for _ in range(3)]
        best = max(run[0] for run in runs), min(run[1] for run in runs)
        name = "metadrive_pictures" if sees == "camera" else "metadrive"
        env.close()
    print(json.dumps({"figures": {name: best}, "versions": {"metadrive-simulator": version("metadrive-simulator")}}))


def rate(env: MetaDriveEnv, seconds: float) -> tuple[float, float]:
    """Steps per second and CPU seconds per step, resets not counted."""
    steps, spent, busy = 0, 0.0, 0.0
    while spent < seconds:
        begun, worked = time.perf_counter(), time.process_time()
        *_, over, cut, _ = env.step([0.0, 0.0])
        spent, busy = spent + time.perf_counter() - begun, busy + time.process_time() - worked
        steps += 1
        if over or cut:
            env.reset()
    return steps / spent, busy / steps


if __name__ == "__main__":
    main()
