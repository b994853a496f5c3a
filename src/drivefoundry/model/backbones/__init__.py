"""Open language models as a VLA's decoder, read from and written to GGUF files and Hugging Face directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivefoundry.model.backbones.load import adopt, load_backbone

__all__ = ["adopt", "load_backbone"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from drivefoundry.model.backbones import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
