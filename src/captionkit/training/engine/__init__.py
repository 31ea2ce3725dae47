"""Devices, precision, distributed processes, memory and signals."""
