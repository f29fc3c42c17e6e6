"""``python -m tests.bench.cache``: how quick the semantic cache is, from a thousand entries to a million.

Vectors are real: questions of the shared data, and points between and around them, since random directions are easy
and hard in the wrong ways.
"""
