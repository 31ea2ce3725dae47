"""The recipe: its fields, and its reading from TOML files and flags."""
