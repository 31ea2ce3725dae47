"""Devices, precision, processes, memory and signals."""
