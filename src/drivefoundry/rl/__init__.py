"""A model, states and a reward in, a better model out."""
