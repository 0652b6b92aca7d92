"""What a benchmark's numbers hold for."""

from rayloom.models.processor import machine_name as hardware

__all__ = ["hardware"]
