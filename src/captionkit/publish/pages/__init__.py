"""Missing alt text in HTML, Markdown and CSV files: where it is missing, and how to write it there.

A format is a module with `gaps(content)`, which returns the places in the bytes of a file where an alt text is missing.
Filling them leaves every other byte as it was.
"""
