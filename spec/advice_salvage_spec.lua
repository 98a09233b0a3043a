--- The advice in the messages of tidemark salvage, followed to the letter. spec/advice_spec.lua has the table of all messages.

local Wal = require "tidemark.wal"
local advice = require "spec.support.advice"
local command_line = require "spec.support.command_line"
local files = require "tidemark.cli.files"
local salvage = require "tidemark.salvage"
local sandbox = require "spec.support.sandbox"
local support = require "spec.support.salvage"

local run, expect, refused, said, taken = command_line.run, command_line.expect, advice.refused, advice.said, advice.taken

describe("advice of salvage:", function()
  local directory, log, new, before

  before_each(function()
    directory = sandbox.tempdir()
    log, new = directory .. "/log", directory .. "/new"
    support.make(log)
    before = support.records(log)
  end)
  after_each(sandbox.cleanup)

  local function sh(command, ...)
    assert(os.execute(command:format(...)))
  end

  -- `files` whose function of that name is another one, which gets the old one's results from `old(...)`.
  local function with(name, make)
    local old = files[name]
    return setmetatable({ [name] = function(...)
      return make(old, ...)
    end }, { __index = files })
  end

  -- It must be salvaged whole now.
  local function assert_salvaged(...)
    expect(0, run("salvage", log, new, ...))
    expect(0, run("verify", new))
    assert.same(before, support.records(new))
  end

  it("without heads: the shards are named, and each key goes where it went", function()
    local keyed, lines = directory .. "/keyed", {}
    for i = 1, 5 do
      lines[i] = ('{"k":"%d"}\n'):format(i)
    end
    local text = table.concat(lines)
    expect(0, command_line.run_with(text, "append", keyed, "--key", "k", "--shards", "16"))
    local filled = command_line.records(keyed)
    assert(os.remove(keyed .. "/heads"))
    local option = taken(run("salvage", keyed, new).err, "give (%-%-shards) N as when it was made")
    assert(os.execute(("rm -r '%s'"):format(new)))
    expect(3, run("salvage", keyed, new, option, "16"))
    expect(0, command_line.run_with(text, "append", new, "--key", "k"))
    local count = 0
    for shard, records in pairs(command_line.records(new)) do
      count = count + 1
      assert.equal(2 * #filled[shard], #records)
    end
    assert.equal(16, count)
  end)

  it("LOCKED: the writer is ended, where heads move", function()
    local wal, done = assert(Wal.open(log, { epoch = 9 })), false
    local message = refused("LOCKED", salvage.run(with("read", function(read, ...)
      if not done then
        done = true
        assert(wal:append(0, { "more" }))
      end
      return read(...)
    end), log, new))
    said(message, "has changed while it was read", "so a writer is at work: end it first")
    assert(wal:close())
    before = support.records(log)
    assert_salvaged()
  end)

  it("LOCKED: the writer is ended, where segments were pruned", function()
    local opened = 0
    local message = refused("LOCKED", salvage.run(with("open", function(open, path)
      if path:find "%.wal$" then
        opened = opened + 1
        if opened == 2 then
          assert(Wal.prune(log, 0, 8))
          assert(Wal.prune(log, 3, 8))
        end
      end
      return open(path)
    end), log, new))
    said(message, "was removed while the log was read, so a writer is at work: end it first")
    before = support.records(log)
    assert_salvaged() -- it prunes no more
  end)

  it("LOCKED: the writer is ended, where a segment changed as it was written", function()
    local readings, at = 0, nil
    local function reading(read, ...)
      readings = readings + 1
      local bytes = read(...)
      return readings == at and ("\0"):rep(#bytes) or bytes
    end
    assert(salvage.run(with("read", reading), log, new))
    sh("rm -r '%s'", new)
    readings, at = 0, readings
    local message = refused("LOCKED", salvage.run(with("read", reading), log, new))
    said(message, "has changed since it was read, so a writer is at work: end it first")
    assert_salvaged()
  end)

  it("DIVERGED: the segments of the wrong history are taken away", function()
    local other = directory .. "/other"
    support.copy(log, other)
    support.append(log, 5, 8)
    support.append(other, 4, 16)
    before = support.records(log)
    local wrong = ("00000-%020d.wal"):format(37)
    sh("cp '%s/%s' '%s'", other, wrong, log)
    local result = run("salvage", log, new)
    expect(1, result, "there are segments of two histories, take the wrong ones away (DIVERGED)")
    local path = taken(result.err, "tidemark: ([^\n]-%.wal): offset")
    assert.equal(wrong, path:match "[^/]*$")
    sh("mv '%s' '%s'", path, directory)
    assert_salvaged()
  end)

  it("FOREIGN: a segment of another log is taken away", function()
    local other = directory .. "/other"
    support.make(other)
    local wrong = ("00003-%020d.wal"):format(99)
    sh("cp '%s/00003-%020d.wal' '%s/%s'", other, 1, log, wrong)
    local result = run("salvage", log, new)
    expect(1, result, "take away the one that does not belong there (FOREIGN)")
    local path = taken(result.err, "tidemark: ([^\n]-%.wal) is of log")
    sh("mv '%s' '%s'", path, directory)
    assert_salvaged()
  end)

  it("FOREIGN: another log in --from is left out", function()
    local other = directory .. "/other"
    support.make(other)
    local result = run("salvage", log, new, "--from", other)
    expect(1, result, "leave it out (FOREIGN)")
    assert.equal(other, taken(result.err, "tidemark: ([^\n]-) is log"))
    assert_salvaged()
  end)

  it("a place that is taken is removed, or another one is named", function()
    sh("mkdir '%s' && touch '%s/mine'", new, new)
    local result = run("salvage", log, new)
    expect(1, result, new .. ": is not empty: remove it, or name a directory that is not there yet")
    local mine = new
    new = directory .. "/another"
    assert_salvaged()
    new = mine
    sh("rm -r '%s'", (taken(result.err, "tidemark: ([^\n]-): is not empty: remove it")))
    assert_salvaged()
  end)

  it("a salvage that was cut off is removed", function()
    sh("mkdir '%s.salvaging' && touch '%s.salvaging/part'", new, new) -- as a kill leaves it
    local result = run("salvage", log, new)
    expect(1, result, "a salvage is at work there, or was cut off: if none is at work, remove it and begin again")
    sh("rm -r '%s'", (taken(result.err, "tidemark: ([^\n]-): a salvage is at work")))
    assert_salvaged()
  end)

  it("a place inside the log gives way to another", function()
    expect(1, run("salvage", log, log .. "/new"), "is in the log that is salvaged, which is left as it is: name another place")
    assert_salvaged()
  end)
end)
