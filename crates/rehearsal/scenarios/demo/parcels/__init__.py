"""Prices of parcels."""

from .quote import quote

__all__ = ["quote"]
