"""What is worth sending home: campaigns, the rules they are written in, and the signals that rules speak of."""

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
