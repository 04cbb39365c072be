"""(room images)"""
