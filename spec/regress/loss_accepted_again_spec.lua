--- A script kept the option with which a loss had once been accepted. When the log lost other records after the same seqno, that loss was
--- accepted, too, although nobody had seen it.

local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"

local run_with, expect = command_line.run_with, command_line.expect

describe("a loss that was accepted", function()
  teardown(sandbox.cleanup)

  it("is not the next loss after the same seqno", function()
    local log = sandbox.tempdir() .. "/log"
    local newest = log .. "/00000-00000000000000000003.wal"
    expect(0, run_with("r1\nr2\n", "append", log))
    expect(0, run_with("r3\nr4\n", "append", log))
    assert(os.remove(newest))
    expect(0, run_with("new3\nnew4\nnew5\n", "append", log, "--accept-loss", "0:2"))
    assert(os.remove(newest)) -- other records than the first time, and more
    local result = run_with("newer3\n", "append", log, "--accept-loss", "0:2")
    assert.equal(1, result.code, result.err)
    assert.truthy(result.err:find("(LOST)", 1, true), result.err)
    assert.equal(5, assert(Wal.heads(log)):applied_seqno(0)) -- the log is as it was
  end)
end)
