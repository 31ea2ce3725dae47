"""Training: a recipe says how, `train` in loop.py does it, a run folder keeps everything."""
