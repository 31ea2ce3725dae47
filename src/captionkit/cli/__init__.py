"""The command line: the parser and the implementations of its commands."""
