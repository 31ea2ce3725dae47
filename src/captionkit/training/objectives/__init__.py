"""Training objectives: cross-entropy, distillation, self-critical training."""
