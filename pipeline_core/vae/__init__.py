"""(room vae)"""
