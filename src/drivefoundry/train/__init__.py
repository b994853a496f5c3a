"""Training: one Trainer; pretrain, sft and distil are recipes of it. Episodes in, Checkpoints out."""
