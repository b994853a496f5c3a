"""Sensors of simulated cars: cameras, and the perception that reports other road users to a guard."""
