"""(room loading)"""
