"""Recorded traffic without cameras, read as Scenes: CommonRoad, Waymo Open Motion, ScenarioNet."""
