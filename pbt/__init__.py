"""Persuasion-balanced training: debate trees, balanced preference pairs, SFT and DPO, and what became of it."""

__version__ = "0.1.0"
