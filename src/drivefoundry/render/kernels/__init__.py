"""Compiled code that draws pictures: ground, buildings, road users, lights, weather."""
