"""airrep-infer: the command line, a thin layer over the Python calls."""
