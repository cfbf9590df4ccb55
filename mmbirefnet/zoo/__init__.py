"""From released checkpoints to this model, and back."""
