"""Plans and rollouts in, scores with intervals and verdicts out."""
