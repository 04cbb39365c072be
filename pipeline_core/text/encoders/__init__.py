"""(room text.encoders)"""
