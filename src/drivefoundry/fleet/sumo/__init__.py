"""The embedded city: SUMO in a process of its own, recorded or live."""
