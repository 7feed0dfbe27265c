"""The runtime verifier: it is given two texts and a way to run them, and says what changed. It knows nothing of rules."""
