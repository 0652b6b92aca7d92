"""`rayloom rate`: people judge answers side by side, or rows one by one, without knowing what they come from."""
