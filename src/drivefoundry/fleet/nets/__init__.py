"""The road networks that ship with the package; `build` makes them anew."""
