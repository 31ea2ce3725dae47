"""Captions where images are kept: text files beside them, their metadata, alt text of pages, watched folders."""
