"""How single values are spelled: quantities, names, digests, references to images."""
