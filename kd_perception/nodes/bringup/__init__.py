"""Which nodes make up a run, as plain data, and what starts them."""
