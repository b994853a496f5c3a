"""The VLA: reasoning text and action codes from frames, ego history and route."""
