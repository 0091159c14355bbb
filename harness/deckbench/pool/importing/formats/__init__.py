"""One module a data set, called as `pool import` calls it: `CREDIT` and `read(source) -> Found`. Nothing lists them."""
