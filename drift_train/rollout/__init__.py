"""Fresh replies of a policy: what is asked, the engines that answer, shards that outlive a kill, the recheck."""
