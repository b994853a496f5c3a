"""Training: one Trainer, which pre-training, fine-tuning and distillation use to make Checkpoints from Episodes."""
