--- Consecutive records of one shard, as the log stores and ships them. The class is in C; docs/meta/batch.lua describes it.

return require("tidemark.core").Batch
