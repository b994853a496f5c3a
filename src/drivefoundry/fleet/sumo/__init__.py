"""The embedded city: SUMO in a separate process, recorded or live."""
