"""Sensors of simulated cars: cameras, and the perception that tells a guard of other road users."""
