--- A state file keeps the last seven epochs of a shard. A leader that was restored from an older copy than these, and had written other
--- records since, was taken for the same history that only ends too early (AHEAD): the follower waited, with the advice that it goes on by
--- itself. Epochs ascend in a log: where the leader has an epoch that is above one that the state has at a later record, the histories
--- differ.

local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"

local run, run_with, expect = command_line.run, command_line.run_with, command_line.expect

describe("a state file that knows only the epochs after those of the leader", function()
  teardown(sandbox.cleanup)

  it("finds that the leader has another history", function()
    local directory = sandbox.tempdir()
    local log, state = directory .. "/log", directory .. "/state"
    for seqno = 1, 12 do
      expect(0, run_with(("r%d\n"):format(seqno), "append", log, "--epoch", ("%d"):format(seqno)))
      if seqno == 3 then
        assert(shell.run(("cp -r '%s' '%s.copy'"):format(log, log)))
      end
    end
    expect(0, run("follow", log, "--state", state, "--print", "--once"))
    assert(shell.run(("rm -r '%s' && mv '%s.copy' '%s'"):format(log, log, log)))
    local result = run("status", state, "--log", log, "--json")
    assert.truthy(result.out:find('"verdict":"ahead_of_source"', 1, true), result.out) -- so far it is the same one
    expect(0, run_with("new4\n", "append", log, "--epoch", "100"))
    result = run("status", state, "--log", log, "--json")
    assert.truthy(result.out:find('"verdict":"diverged"', 1, true), result.out)
    result = run("follow", log, "--state", state, "--print", "--once")
    assert.equal("", result.out)
    assert.truthy(result.err:find("(DIVERGED)", 1, true), result.err)
  end)
end)
