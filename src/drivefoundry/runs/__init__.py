"""A run directory: its request, its contents, and names for its artefacts."""
