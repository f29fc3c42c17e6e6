"""The batching engine beside a bare `llama_decode` loop and llama.cpp's own server: `python -m tests.bench.engine`."""
