"""Images, captions and their tokenizer; the layouts that datasets have on disk are in `layouts`."""
