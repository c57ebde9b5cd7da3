"""What goes wrong in the lab itself."""

from __future__ import annotations


class LabError(RuntimeError):
    """The lab could not do what was asked. One line, fit to be shown."""
