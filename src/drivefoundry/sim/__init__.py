"""Scenes in, closed-loop rollouts out: batched world, cameras, the rule-based expert."""
