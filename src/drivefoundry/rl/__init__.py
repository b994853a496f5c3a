"""Reinforcement learning from states and a reward."""
