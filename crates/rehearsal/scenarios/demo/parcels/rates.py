"""Weight bands and zone surcharges."""

# (limit in grams, price in cents), lightest first; a limit belongs to its band.
BANDS = [
    (500, 420),
    (2_000, 680),
    (10_000, 1_190),
]

SURCHARGES = {"domestic": 0, "neighbour": 350, "overseas": 1_400}
