"""Graphs in 8 bits: calibration, rounding, mixed precision, passes over the graph."""
