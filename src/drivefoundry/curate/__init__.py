"""Curation of clips: quality gates, near-duplicates, rare manoeuvres, leak-free splits."""
