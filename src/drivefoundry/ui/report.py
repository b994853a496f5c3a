"""Report content in, one self-contained HTML file out."""

from __future__ import annotations

from pathlib import Path

from drivefoundry.ui.content import ReportContent


def render_report(content: ReportContent, path: Path) -> Path:
    """Content in, path of the finished page out: written aside and renamed, so that a reader never sees half of one."""
    raise NotImplementedError
