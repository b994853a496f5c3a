"""Upload of clips to the fleet's store: collected, queued and sent until the service acknowledges them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivefoundry_car.upload.uploader import Note, Receipt, Uploader, UploadLimits

__all__ = ["Note", "Receipt", "UploadLimits", "Uploader"]


def __getattr__(name: str) -> Any:  # not on import: `python -m drivefoundry_car.upload.outbox` would load itself twice
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from drivefoundry_car.upload import uploader

    return getattr(uploader, name)
