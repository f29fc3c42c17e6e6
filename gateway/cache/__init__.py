"""Stored answers: exact, normalised and semantic, behind one hard partition."""
