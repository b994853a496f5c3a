"""Training: one Trainer, used by pre-training, fine-tuning and distillation to make Checkpoints from Episodes."""
