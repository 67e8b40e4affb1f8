"""What a run keeps, declares, costs and reports."""
