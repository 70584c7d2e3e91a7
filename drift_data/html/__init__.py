"""The look that all HTML pages share: the template environment, the style sheet, the charts."""
