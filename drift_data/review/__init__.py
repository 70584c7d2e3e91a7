"""Labels that people can audit: a page in the browser to read judged turns, and to accept or change what the judge said."""
