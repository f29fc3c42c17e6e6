"""The chat process: llama.cpp behind OpenAI's `/v1/chat/completions`."""
