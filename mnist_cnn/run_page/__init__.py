"""A run's page: one HTML file with everything that its folder holds, which needs nothing else to be read."""
