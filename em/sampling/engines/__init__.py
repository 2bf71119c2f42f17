"""One module per engine; open.open_sampler chooses and starts one."""
