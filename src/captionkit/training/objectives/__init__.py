"""What is minimised: cross-entropy, distillation, self-critical training."""
