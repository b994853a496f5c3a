"""Round float matrices to integers with little change in their outputs, given samples of their inputs.

Rounding each weight to the nearest step preserves weights; GPTQ (Frantar et al. 2023) preserves outputs: columns are
rounded one after the other, and each one's error is compensated by the remaining ones, as far as their inputs are
correlated (as those of neighbouring pixels are).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from drivefoundry.model.vla import VLA

DAMP = 0.01
"""Added to the inputs' second moments, as a share of their mean, so that errors on unseen inputs are not free."""


def input_moments(
    model: VLA, frames: dict[str, np.ndarray], ego: np.ndarray, route: np.ndarray
) -> dict[str, np.ndarray]:
    """For every linear layer, by name, the (in, in) sum of x x^T over its inputs while the model acts on samples."""
    moments: dict[str, Tensor] = {}

    def watch(name: str):
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            moments[name] = moments.get(name, torch.zeros(())) + (x.T @ x).double()

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    hooks = [m.register_forward_pre_hook(watch(name)) for name, m in layers]
    for i in range(0, len(ego), 64):
        f = {name: torch.from_numpy(np.array(a[i : i + 64])) for name, a in frames.items()}
        e, r = (torch.from_numpy(np.array(a[i : i + 64])) for a in (ego, route))
        model.act(f, e, r)
    for hook in hooks:
        hook.remove()
    return {name: m.numpy() for name, m in moments.items()}


def rounded(w: np.ndarray, most: int, moments: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Round a matrix (out, in) to integers within +-most, int8 if they fit, else int16, with scales (out,) float32.
    With moments (in, in) the outputs are preserved, without them the weights."""
    scale = (np.maximum(np.abs(w).max(1), 1e-12) / most).astype(np.float32)
    if moments is None:
        q = np.round(w / scale[:, None])
    else:
        q = _outputs_kept(w.astype(np.float64), scale.astype(np.float64), most, moments)
    return np.clip(q, -most, most).astype(np.int8 if most <= 127 else np.int16), scale


def _outputs_kept(w: np.ndarray, scale: np.ndarray, most: int, moments: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.diag(moments), kind="stable")  # largest inputs first, while all others can still compensate
    h = moments[np.ix_(order, order)]
    h = h + np.eye(len(h)) * max(DAMP * float(np.diag(h).mean()), 1e-9)
    give = np.linalg.cholesky(np.linalg.inv(h)).T
    w, q = w[:, order], np.empty_like(w)
    for i in range(w.shape[1]):
        q[:, i] = np.clip(np.round(w[:, i] / scale), -most, most)
        error = (w[:, i] - q[:, i] * scale) / give[i, i]
        w[:, i + 1 :] -= error[:, None] * give[i, i + 1 :]
    out = np.empty_like(q)
    out[:, order] = q
    return out
