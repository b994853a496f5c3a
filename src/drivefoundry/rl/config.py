"""Hyperparameters of reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass

from drivefoundry.bounds import in_range, one_of, positive
from drivefoundry.seeds import MAX_SEED


@dataclass(frozen=True)
class GrpoConfig:
    """Hyperparameters of one run of Dr. GRPO (`rl.grpo`)."""

    steps: int = 80
    states: int = 32
    """States per step, S."""
    samples: int = 8
    """Plans sampled per state, N."""
    lr: float = 1e-4
    kl: float = 0.03
    """Weight of the KL divergence from the initial model."""
    bc_weight: float = 0.5
    """Weight of the behaviour-cloning loss beside the policy gradient."""
    temperature: float = 1.0
    clip: float = 1.0
    """Maximum norm of the gradient."""
    reward: str = "EPDMS"
    """PDMS or EPDMS (judge.scores.pdm)."""
    validation_states: int = 256
    """Held-out states. If the trained model's reward on them is lower than before, the initial model is kept."""
    seed: int = 0

    def validate(self) -> GrpoConfig:
        in_range(self, 1, 100_000_000, "steps")
        in_range(self, 1, 1_000_000, "states")
        in_range(self, 2, 1024, "samples")
        positive(self, 1, "lr")
        in_range(self, 0, 100, "kl", "bc_weight")
        positive(self, 100, "temperature", "clip")
        one_of(self, ("PDMS", "EPDMS"), "reward")
        in_range(self, 0, 1_000_000, "validation_states")
        in_range(self, 0, MAX_SEED, "seed")
        return self
