"""The VLA: frames, ego history and route in, reasoning text and action codes out."""
