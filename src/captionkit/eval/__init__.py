"""Models and results files scored on datasets, and what is fitted to them."""
