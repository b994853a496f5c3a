"""Who may connect and upload: vehicles, tokens, limits, TLS."""
