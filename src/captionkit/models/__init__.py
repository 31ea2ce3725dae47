"""The networks: encoders (picture -> grid of features), decoders (grid -> words) and the model that joins the two."""
