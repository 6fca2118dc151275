"""Output for people and programs: data in, text out. The only package that imports rich."""
