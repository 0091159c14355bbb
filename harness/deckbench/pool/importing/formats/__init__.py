"""One module a data set, named as `pool import` calls it: `CREDIT` and `read(source) -> ImportedData`."""
