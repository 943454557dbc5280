"""Two-stage programs written as one scenario in CVXPY."""
