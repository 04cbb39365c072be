"""(room training)"""
