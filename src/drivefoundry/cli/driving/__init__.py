"""`judge`, `city`, `scene` and `serve`."""
