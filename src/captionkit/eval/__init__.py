"""Evaluation: score models and results files on datasets, and fit confidence and decoding settings."""
