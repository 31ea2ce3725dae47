"""Captioning of datasets of any size: in parts, on many processes or machines, and never twice."""
