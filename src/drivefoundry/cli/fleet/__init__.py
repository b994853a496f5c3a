"""`campaign`, `ingest` and `release`."""
