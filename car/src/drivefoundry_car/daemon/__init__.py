"""The car's daemon: one process that drives, records and watches, and its uploader and updater beside it."""
