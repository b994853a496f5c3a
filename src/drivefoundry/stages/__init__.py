"""One function a stage of the line: recipe and the folders of earlier artefacts in, files in a given folder out.

Each is the `build` of a ledger entry (`line.py` strings them together): it may be killed at any moment and called
again.
"""
