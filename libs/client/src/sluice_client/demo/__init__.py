"""The demonstration: three agents on the shipped incident, a service killed in the middle, the story from SQL;
a second pipeline breaks its error budget.
"""
