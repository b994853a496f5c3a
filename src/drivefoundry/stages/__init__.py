"""One function per stage of the line: from a recipe and the folders of earlier artefacts to files in a given folder.

Each is the `build` of a ledger entry (`line.py` strings them together): it may be killed at any moment and called
again.
"""
