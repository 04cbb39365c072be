"""How `nano` is made: its configurations, its data from the small world, its stages, its folder."""
