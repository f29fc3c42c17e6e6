"""Experiments: which arm does better, whether that is real, and what happens to one that has surely lost."""
