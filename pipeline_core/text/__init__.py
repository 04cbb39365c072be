"""(room text)"""
