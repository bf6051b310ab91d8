"""Where a lesson comes from: cached soft labels, or a network that looks at the view itself."""
