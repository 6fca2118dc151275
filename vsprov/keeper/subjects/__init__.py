"""What the keeper does for servers, one module per subject: see `keeper.kept`. `console` writes a `log`."""
