"""Captioners of transformers as modules with captionkit's own interface: encode, begin, step. A module per family."""
