"""The road networks that ship with the package; `build` regenerates them."""
