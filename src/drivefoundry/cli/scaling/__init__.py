"""`plan` and `scale`."""
