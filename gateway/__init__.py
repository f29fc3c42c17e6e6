"""Farthing: a cost-aware model routing gateway behind one OpenAI-compatible endpoint."""

__version__ = "0.1.0"
