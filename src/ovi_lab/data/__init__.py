"""Clips: generated (`worlds`), packed from files (`pack`), stored in WebDataset shards, loaded in a seeded
order.
"""
