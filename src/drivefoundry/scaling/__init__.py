"""What more model, data and compute buy, and what they cost: scaling laws, the planner, a simulated cluster."""
