"""The REST service: captions over HTTP, with requests that come at the same time captioned together."""
