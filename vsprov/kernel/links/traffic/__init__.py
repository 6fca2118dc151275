"""Traffic control, tc(8): the rates of links, and those that the servers of a pool share."""
