--- Makes a checkpoint of a state file once a second, when its marks have moved: for hosts that have no timer, such as lighttpd.
--- It may be killed at any moment.
---
---     lua5.4 checkpointer.lua PATH

local clock = require("tidemark.core").clock
local ReplicationState = require "tidemark.replication_state"

local state = assert(ReplicationState.open(assert(arg[1], "usage: checkpointer.lua PATH"), {}))
local saved
while true do
  local marks = state:to_checkpoint_bytes()
  if marks ~= saved then
    assert(state:checkpoint()) -- whoever starts it again opens the state anew
    saved = marks
  end
  clock.sleep(1)
end
