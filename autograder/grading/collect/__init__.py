"""What students handed in: whose it is, when it came, and whether it counts by the course's policy."""
