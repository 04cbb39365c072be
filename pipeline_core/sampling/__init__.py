"""(room sampling)"""
