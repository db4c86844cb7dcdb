"""AirRep training: learn the encoder from what subsets of data really do to a language model."""
