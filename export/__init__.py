"""AirRep export: a trained model becomes an ONNX bundle that runs without torch."""
