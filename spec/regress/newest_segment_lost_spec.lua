--- A log had lost its newest segment, and nobody had opened it for writing since. A follower of the lost records was told that they are
--- of another history (DIVERGED), with the command that deletes them: it has the only copy. The same happened while a copy of the log was
--- just being put in its place. Where the lost segment was of the same epoch as the one before it, status said that all was well. The epoch
--- of a record that is not there was taken from the last segment that is.

local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local core = require "tidemark.core"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

local run, expect = command_line.run, command_line.expect

-- Ways to write records 1 to 4 into two segments.
local WRITERS = {
  { "of another epoch", function(log)
    for first = 1, 3, 2 do
      local wal = assert(Wal.open(log, { shards = { 0 } }))
      assert(wal:append(0, { "r" .. first, "r" .. first + 1 }))
      assert(wal:close())
    end
  end },
  { "of the same epoch", function(log)
    local wal = assert(Wal.open(log, { shards = { 0 }, segment_bytes = 150 }))
    for seqno = 1, 4 do
      assert(wal:append(0, { "r" .. seqno }))
    end
    assert(wal:close())
  end },
}

for _, writer in ipairs(WRITERS) do
  describe("a log that has lost its newest segment, " .. writer[1], function()
    local directory, log

    before_each(function()
      directory = sandbox.tempdir()
      log = directory .. "/log"
      writer[2](log)
    end)

    teardown(sandbox.cleanup)

    local function new_follower()
      local state = assert(ReplicationState.open(directory .. "/state", { 0 }))
      local source = assert(Wal.source(log))
      local follower = assert(Follower.new {
        state = state,
        source = source,
        apply = function()
          return true
        end,
      })
      return follower, function()
        follower:stop()
        follower:close()
        state:close()
        source:close()
      end
    end

    it("is not another history for a follower of the lost records", function()
      expect(0, run("follow", log, "--state", directory .. "/state", "--print", "--once"))
      assert(os.remove(log .. "/00000-00000000000000000003.wal"))
      local result = run("status", directory .. "/state", "--log", log)
      assert.not_equal(0, result.code, result.out)
      assert.is_nil(result.err:find("DIVERGED", 1, true), result.err)
      local follower, close = new_follower()
      follower:step(0)
      local status = follower:status()[0]
      close()
      assert.not_equal("diverged", status.state, status.error)
      assert.truthy(status.error)
    end)

    it("may be on its way, and the follower goes on", function()
      local follower, close = new_follower()
      repeat
      until follower:step(0) == 0
      assert.equal(4, follower:status()[0].applied)
      -- the log is copied back to its place, file by file
      local commands = "mv LOG LOG.kept; mkdir LOG; cp -p LOG.kept/heads LOG.kept/lock LOG.kept/*1.wal LOG"
      assert(shell.run((commands:gsub("LOG", log))))
      local deadline = core.clock.now() + 0.2
      repeat
        follower:step(0.05)
      until core.clock.now() > deadline
      assert(shell.run((("cp -p LOG.kept/*3.wal LOG"):gsub("LOG", log))))
      local wal = assert(Wal.open(log))
      assert(wal:append(0, { "r5" }))
      assert(wal:close())
      deadline = core.clock.now() + 30
      repeat
        follower:step(0.05)
        local status = follower:status()[0]
        assert.not_equal("diverged", status.state, status.error)
      until status.applied == 5 or core.clock.now() > deadline
      assert.equal(5, follower:status()[0].applied)
      close()
    end)

    it("does not know the epoch of a lost record", function()
      assert(os.remove(log .. "/00000-00000000000000000003.wal"))
      local source = assert(Wal.source(log))
      assert.is_nil((source:epoch(0, 4)))
      assert.is_nil((source:epoch(0, 3)))
      assert.truthy(source:epoch(0, 2))
      source:close()
    end)
  end)
end
