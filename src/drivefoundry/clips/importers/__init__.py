"""Importers of recordings, as clip files or Scenes. What a source lacks is noted, never invented."""

from drivefoundry.clips.importers.folder import clips_in, drives_in, kind_of, maps_in, scenes_in

__all__ = ["clips_in", "drives_in", "kind_of", "maps_in", "scenes_in"]
