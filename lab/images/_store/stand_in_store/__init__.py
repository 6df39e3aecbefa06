"""What the stand-ins for stores share. None of them is the store: they keep documents and check who is asking."""
