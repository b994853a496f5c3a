"""A run directory: what it was asked for, what it holds, and names for its artefacts."""
