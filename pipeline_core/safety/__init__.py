"""(room safety)"""
