"""Training: one Trainer; pretrain, sft and distil are recipes of it. They turn Episodes into Checkpoints."""
