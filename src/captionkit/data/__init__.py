"""Images, captions and tokenizers; `layouts` reads datasets from disk."""
