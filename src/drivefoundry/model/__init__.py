"""The VLA: from frames, ego history and route to reasoning text and action codes."""
