--- One high-water mark per shard, shared by threads and processes. The class is in C; docs/meta/replication_state.lua describes it.

return require("tidemark.core").ReplicationState
