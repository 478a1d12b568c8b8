"""What runs in a worker's processes, on the far side of the walls. Standard library only; no trainer imports it."""
