"""From what was counted and timed to figures with intervals, of one arm and between arms."""
