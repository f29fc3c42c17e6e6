"""The embedding process beside plain sentence-transformers, in one run."""
