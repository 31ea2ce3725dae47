"""Training: a recipe configures a run, `train` in trainer.py executes it, and a run folder stores the results."""
