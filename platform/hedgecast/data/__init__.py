"""Tables, datasets, decision days, features, scaling and splits."""
