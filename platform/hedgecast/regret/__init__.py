"""What decisions cost when the real day comes."""
