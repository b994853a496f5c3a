"""Export a float student as an int8 engine directory: `export.export_engine(checkpoint_dir, out_dir, ...)`."""
