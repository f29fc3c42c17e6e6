"""Wire formats that are chat in other words: pure functions between them and the pipeline's, which is OpenAI's chat."""
