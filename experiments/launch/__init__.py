"""How a run is started on several hosts."""
