"""Closed-loop simulation of scenes: batched world, cameras, the rule-based expert."""
