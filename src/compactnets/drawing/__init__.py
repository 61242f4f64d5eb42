"""What pictures of several tasks share: the colours of classes, text in any script, a page of best and worst images."""
