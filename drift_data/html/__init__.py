"""The look that all pages share: the template environment, the style sheet, the charts."""
