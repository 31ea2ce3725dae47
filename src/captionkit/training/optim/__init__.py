"""Optimizers, learning rate schedules, exponential moving average of the weights, gradual unfreezing."""
