"""What to upload: campaigns, the language of their rules, and the signals that rules use."""

from drivefoundry_car.triggers.trigger import (
    LIBRARY,
    Campaign,
    Firing,
    Watch,
    applies,
    campaign,
    firings,
    load_campaigns,
    not_evaluable,
    note_for,
)

__all__ = [
    "LIBRARY",
    "Campaign",
    "Firing",
    "Watch",
    "applies",
    "campaign",
    "firings",
    "load_campaigns",
    "not_evaluable",
    "note_for",
]
