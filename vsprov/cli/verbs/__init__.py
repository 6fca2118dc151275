"""One module per verb, or per group of verbs that share code. Imported when a verb is called."""
