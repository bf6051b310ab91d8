"""Networks of other makers: ONNX graphs and torch weights become bundles. No torch in here."""
