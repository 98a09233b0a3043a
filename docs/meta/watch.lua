---@meta tidemark.watch
--- Types of the C class for language servers (LuaCATS). Never loaded at run time. Results and errors: docs/reference.md.

---A mark that somebody waits for without blocking. `ReplicationState:watch` makes one.
---@class tidemark.Watch
local Watch = {}

---Whether the mark is there; then it stays so. Never blocks.
---@return boolean ready
function Watch:ready() end

---A descriptor that is readable once the mark is there. Only to be polled, and no longer when the watch is closed.
---@return integer? fd
---@return string? message
---@return tidemark.ErrorCode? code "UNSUPPORTED" for a state with files, "FORKED", "IO"
function Watch:fd() end

---Idempotent. Closes the descriptor.
function Watch:close() end

return Watch
