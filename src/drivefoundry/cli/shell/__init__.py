"""Completion for shells and the manual page of the command line."""
