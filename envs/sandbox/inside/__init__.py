"""What runs in a worker's processes, on the far side of the walls. Standard library only, never imported by a trainer."""
