"""Rayloom: from raw text to a served language model on one Ray cluster."""

__version__ = "0.2.0"
