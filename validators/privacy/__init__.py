"""What a release tells of the people it was learned from: copies, membership, attributes."""
