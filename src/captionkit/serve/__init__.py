"""The REST service: captions over HTTP, with concurrent requests batched through the model."""
