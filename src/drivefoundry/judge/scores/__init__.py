"""Metrics of one motion or one drive: PDM score, EPDMS, CARLA driving score, comfort, realism."""
