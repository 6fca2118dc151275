"""What people and programs are shown: data in, text out. The only importer of rich."""
