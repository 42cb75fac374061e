"""Pure: lines, entries, which file comes next, what is told."""
