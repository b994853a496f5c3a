"""The stages of the line: each builds the files of one artefact from a recipe and the folders of earlier artefacts.

Each is the `build` of a ledger entry (`line.py` connects them), so it may be killed at any moment and called again.
"""
