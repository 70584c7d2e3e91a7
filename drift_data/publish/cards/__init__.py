"""Cards of published data sets and models; their templates and texts are in the files beside this one."""
