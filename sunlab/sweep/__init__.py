"""Many runs: configurations of a grid, and where they are launched."""
