"""Optimizers, learning rate schedules, moving averages of the weights, gradual unfreezing."""
