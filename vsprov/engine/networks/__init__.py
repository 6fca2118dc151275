"""Networks: observation, steps, and links that vanish. Loaded only if there are any."""
