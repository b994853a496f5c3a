"""Motion of the other road users: replayed, reactive, or free (IDM and MOBIL)."""
