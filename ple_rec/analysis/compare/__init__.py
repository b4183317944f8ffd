"""Variants of a model beside each other, over several seeds: do tasks help each other, and does the variant matter?"""
