"""What `vsprov doctor` checks: one module per subject, each with functions that yield findings."""
