"""The page's sections: each describes one for its template."""
