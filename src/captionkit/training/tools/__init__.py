"""Learning rate finder, hyperparameter sweep, model soup."""
