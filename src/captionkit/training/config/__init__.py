"""The recipe: its fields, and how it is loaded from TOML files and command-line flags."""
