"""Clips: made by rule (`worlds`), packed from files (`pack`), kept in WebDataset shards, loaded in a seeded
order.
"""
