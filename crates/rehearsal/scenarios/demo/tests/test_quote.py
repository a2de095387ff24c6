import unittest

from parcels import quote


class QuoteTest(unittest.TestCase):
    def test_light_parcel(self):
        self.assertEqual(quote(120), 420)

    def test_limit_belongs_to_its_band(self):
        self.assertEqual(quote(500), 420)

    def test_heaviest_parcel(self):
        self.assertEqual(quote(10_000, "overseas"), 2_590)

    def test_too_heavy(self):
        with self.assertRaises(ValueError):
            quote(10_001)

    def test_unknown_zone(self):
        with self.assertRaises(ValueError):
            quote(120, "moon")


if __name__ == "__main__":
    unittest.main()
