"""One test for each defect that was found once, where a user would have noticed it."""
