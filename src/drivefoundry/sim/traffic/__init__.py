"""How the other road users move: replayed, reactive, or free (IDM and MOBIL)."""
