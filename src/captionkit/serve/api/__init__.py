"""The endpoints and the schemas of what they take and give."""
