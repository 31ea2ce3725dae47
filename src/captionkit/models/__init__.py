"""The networks: encoders (image -> grid of features), decoders (grid -> words) and the model that joins the two."""
