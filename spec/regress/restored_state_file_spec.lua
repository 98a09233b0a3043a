--- A state file was restored from a copy together with the effects of its records, but the live file beside it was trusted: the copy
--- had been made since the last checkpoint, so both had the same generation. The marks stayed where they had been, ahead of the effects,
--- and the records in between were never applied again.

local ReplicationState = require "tidemark.replication_state"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

describe("a state file that is restored from a copy", function()
  teardown(sandbox.cleanup)

  -- Moves the mark as a follower that is killed before its next checkpoint.
  local ADVANCE_AND_DIE = [[
    local state = assert(require("tidemark.replication_state").open(arg[1], { 0 }))
    assert(state:advance(0, 6))
    os.execute "kill -9 $PPID"
  ]]

  for _, restore in ipairs { "cp '%s.copy' '%s'", "mv '%s.copy' '%s'" } do
    it("has the mark of the copy: " .. restore:match "^%a+", function()
      local path = sandbox.tempdir() .. "/state"
      local state = assert(ReplicationState.open(path, { 0 }))
      assert(state:advance(0, 3))
      assert(state:checkpoint())
      state:close()
      assert(shell.run(("cp '%s' '%s.copy'"):format(path, path)))
      assert.is_false((sandbox.lua(ADVANCE_AND_DIE, path)))
      state = assert(ReplicationState.open(path, { 0 }))
      assert.equal(6, state:applied_seqno(0)) -- as promised: marks survive a kill
      state:close()
      assert(shell.run(restore:format(path, path)))
      state = assert(ReplicationState.open(path, { 0 }))
      assert.equal(3, state:applied_seqno(0))
      state:close()
    end)
  end
end)
