"""The networks: encoders (image -> feature grid), decoders (feature grid -> words) and the model that joins them."""
