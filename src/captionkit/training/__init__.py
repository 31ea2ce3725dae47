"""Training: a recipe says how, `train` does it, a run folder keeps everything. Import the parts; this file is empty of code."""
