"""What the plans of servers are made of: their changes, the order of these, hooks, names."""
