"""Check an engine's contract: every number in it must be one that the kernels can work with.

The kernels use these numbers as indices without further checks.
"""

from __future__ import annotations

import math
from typing import Any

from drivefoundry_car.vehicle.codec import STEPS
from drivefoundry_car.vehicle.embodiment import FRONT, MAX_CAMERAS, Embodiment

WIDTH = 16
"""SIMD width of the kernels."""
LONGEST = 512
"""Maximum number of positions that the kernels attend to."""
_SIZES: dict[str, tuple[int, int, int]] = {  # minimum, maximum, divisor
    "dim": (WIDTH, 16_384, WIDTH),
    "layers": (1, 256, 1),
    "heads": (1, 256, 1),
    "kv_heads": (1, 256, 1),
    "head_dim": (WIDTH, 512, WIDTH),
    "ffn": (WIDTH, 65_536, WIDTH),
    "patch": (8, 256, 8),
    "stem": (1, 4096, 1),
    "frames": (2, 2, 1),
    "history": (4, 4, 1),
    "ego_features": (3, 3, 1),
    "route_features": (1, 256, 1),
    "text_vocab": (4, 1 << 20, 1),
    "max_text": (1, LONGEST, 1),
    "codes": (WIDTH, 1024, WIDTH),
}
_LONGEST_SIDE = 4096
"""Maximum side of an image, px."""
_PLAIN: dict[str, Any] = {
    "qkv_bias": False, "tied": True, "norm_eps": 1e-6, "vision": "patch", "text_shift": 0,
    "action": "codes", "rope_scaling": None,
}  # fmt: skip
"""Fields for which the kernels support only one value; a contract may omit them."""


def checked(contract: dict[str, Any], name: object) -> dict[str, Any]:
    """Return the contract once checked. ValueError names the file (`name`), the field and the allowed values."""
    model = _part(contract, "model", dict, name)
    for field, (least, most, step) in _SIZES.items():
        value = _whole(model, f"model.{field}", name)
        fits = least <= value <= most and value % step == 0
        of = f" in steps of {step}" if step > 1 else ""
        _require(fits, name, f"model.{field}", value, f"{least} to {most}{of}" if most > least else str(least))
    for field, expected in _PLAIN.items():
        value = model.get(field, expected)
        _require(type(value) is type(expected) and value == expected, name, f"model.{field}", value, str(expected))
    for field in ("bidirectional", "ego_changes"):
        value = _part(model, f"model.{field}", bool, name)
    theta = model.get("rope_theta")
    _require(_finite(theta) and 1 <= theta <= 1e12, name, "model.rope_theta", theta, "1 to 1e12")
    heads, kv = model["heads"], model["kv_heads"]
    _require(heads % kv == 0, name, "model.kv_heads", kv, f"a divisor of {heads} heads")
    shown, patch = _pictures(model, name), model["patch"]
    body = Embodiment.of(contract.get("embodiment"), name)
    sizes = {c: list(size) for c, size in body.pictures.items()}
    _require(shown == sizes, name, "model.image, model.others", shown, f"the embodiment's cameras, {sizes}")
    plan = contract.get("plan")
    _require(type(plan) is int and plan == STEPS, name, "plan", plan, str(STEPS))
    longest = sum(h // patch * (w // patch) for h, w in shown.values()) + 3 + max(model["max_text"], plan)
    _require(
        longest <= LONGEST,
        name,
        "model.image, model.others and model.max_text",
        longest,
        f"at most {LONGEST} positions",
    )
    _vocabulary(contract, model, name)
    scale = _part(contract, "ego_scale", list, name)
    fits = len(scale) == model["ego_features"] and all(_finite(x) and abs(x) <= 1e6 for x in scale)
    _require(fits, name, "ego_scale", scale, f"{model['ego_features']} finite numbers")
    return contract


def _pictures(model: dict[str, Any], name: object) -> dict[str, list[int]]:
    """Camera -> height and width of its picture, multiples of the patch size."""
    image, others, patch = (
        _part(model, "model.image", list, name),
        _part(model, "model.others", list, name),
        model["patch"],
    )
    named = len(others) < MAX_CAMERAS and all(isinstance(o, list) and len(o) == 3 and type(o[0]) is str for o in others)
    _require(named, name, "model.others", others, "lists of a camera's name, height and width")
    shown = {FRONT: image, **{o[0]: o[1:] for o in others}}
    for size in shown.values():
        fits = len(size) == 2 and all(type(n) is int and patch <= n <= _LONGEST_SIDE and n % patch == 0 for n in size)
        _require(fits, name, "model.image, model.others", size, f"height and width in multiples of {patch} px")
    return shown


def _vocabulary(contract: dict[str, Any], model: dict[str, Any], name: object) -> None:
    """Check the ids: text first, then codes, then marks."""
    ids, text = _part(contract, "vocabulary", dict, name), _part(contract, "text", list, name)
    words, codes = model["text_vocab"], model["text_vocab"] + model["codes"]
    for field, expected in (("text", [0, words]), ("codes", [words, codes])):
        _require(ids.get(field, expected) == expected, name, f"vocabulary.{field}", ids.get(field), str(expected))
    table = _part(contract, "tensors", dict, name).get("embed.marks")
    shape = table[1] if isinstance(table, list) and len(table) == 3 else None
    whole = isinstance(shape, list) and len(shape) == 2 and type(shape[0]) is int and 3 <= shape[0] <= 4096
    _require(whole, name, "tensors.embed.marks", table, "a table of the marks' embeddings")
    assert shape is not None
    for field in ("task", "think", "act"):
        value = _whole(ids, f"vocabulary.{field}", name)
        fits = codes <= value < codes + shape[0]
        _require(fits, name, f"vocabulary.{field}", value, f"{codes} to {codes + shape[0] - 1}")
    _require(len(text) <= words and all(isinstance(t, str) for t in text), name, "text", len(text), f"{words} pieces")


def _part(of: dict[str, Any], field: str, kind: type, name: object) -> Any:
    value = of.get(field.rpartition(".")[2])
    _require(type(value) is kind, name, field, value, {dict: "a table", list: "a list", bool: "true or false"}[kind])
    return value


def _whole(of: dict[str, Any], field: str, name: object) -> int:
    value = of.get(field.rpartition(".")[2])
    _require(type(value) is int, name, field, value, "a whole number")
    assert isinstance(value, int)
    return value


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _require(ok: bool, name: object, field: str, value: Any, expected: str) -> None:
    if not ok:
        shown = "missing" if value is None else repr(value)
        raise ValueError(f"{name}: {field} is {shown[:80]}, must be {expected}; quantize the engine again")
