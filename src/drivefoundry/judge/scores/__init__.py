"""Metrics of one motion or one drive: PDM score, EPDMS, CARLA driving score, comfort, realism."""

# The benchmark version that each metric follows, for tables and verdicts. Formulas: docs/metrics.md.
NAVSIM_1, NAVSIM_2 = "NAVSIM v1", "NAVSIM v2.2"
CARLA_20, CARLA_21 = "CARLA leaderboard 2.0", "CARLA leaderboard 2.1"
WOSAC = "WOSAC 2025"

VERSIONS = {
    "pdms": f"PDMS, {NAVSIM_1}, over whole closed-loop drives",
    "epdms": f"EPDMS, {NAVSIM_2}, two stages",
    "epdms_one": f"EPDMS, {NAVSIM_2}, stage one",
    "epdms_two": f"EPDMS, {NAVSIM_2}, stage two",
    "driving_score_20": f"driving score, {CARLA_20}",
    "driving_score_21": f"driving score, {CARLA_21}",
    "realism": f"realism meta-metric, {WOSAC}",
}
