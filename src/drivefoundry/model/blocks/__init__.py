"""The building blocks of the VLA: attention, decoder, vision tower, flow head."""
