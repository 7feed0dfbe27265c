"""The runtime verifier: given two texts and a way to run them, it says what changed. It knows nothing of rules."""
