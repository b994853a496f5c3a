"""The open cloud model factory for driving: from vehicle logs to a signed model in the car, and back."""
