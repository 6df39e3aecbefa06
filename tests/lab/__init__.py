"""The product on real hosts."""
