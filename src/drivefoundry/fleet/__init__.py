"""A city full of cars that record Drives with cameras."""
