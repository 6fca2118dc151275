"""How the networks of a host differ from what they should be, and the steps that change them. Pure."""
