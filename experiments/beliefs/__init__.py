"""How well beliefs that learn from the same episodes know the context, beside what a filter makes of them."""
