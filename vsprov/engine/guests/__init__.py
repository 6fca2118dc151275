"""Starting servers, and running commands and terminals in them."""
