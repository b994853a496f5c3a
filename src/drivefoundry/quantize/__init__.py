"""A float student in, an int8 engine directory out: `export.export_engine(checkpoint_dir, out_dir, calibration)`."""
