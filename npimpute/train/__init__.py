"""Making models: simulated and real panels, the objective, the loop."""
