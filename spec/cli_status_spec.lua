--- tidemark status, verify and inspect, as a user runs them.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"

local run = command_line.run

local directory, log, state

local function make_state(marks)
  local shards = {}
  for shard in pairs(marks) do
    shards[#shards + 1] = shard
  end
  local made = assert(ReplicationState.open(state, shards))
  assert(made:advance_all(marks))
  assert(made:checkpoint())
  made:close()
end

local function assert_refused(result, ...)
  command_line.expect(1, result, ...)
end

-- Its output. It changes nothing: the directory has the same names.
local function look(...)
  local before = command_line.list(directory)
  local result = run(...)
  assert.same({ 0, "" }, { result.code, result.err })
  assert.equal(before, command_line.list(directory))
  return result.out
end

local function before()
  directory = sandbox.tempdir()
  log, state = directory .. "/log", directory .. "/state"
end

describe("tidemark status", function()
  before_each(before)
  after_each(sandbox.cleanup)

  -- A damaged note was taken for one of somebody else: all seemed to be well, with any log.
  for what, damage in pairs {
    ["does not go with its mark"] = { "CORRUPT", "which does not go with its mark 4", function(note)
      return note:sub(1, -9) .. ("<i8"):pack(9)
    end },
    ["is cut off"] = { "CORRUPT", "its note has a wrong length", function(note)
      return note:sub(1, -2)
    end },
    ["is cut off after its magic"] = { "CORRUPT", "its note has a wrong length", function()
      return "TMEP"
    end },
    ["has another version"] = { "UNSUPPORTED", "its note has version 3", function(note)
      return note:sub(1, 4) .. "\3" .. note:sub(6)
    end },
  } do
    it("refuses a state whose note " .. what, function()
      command_line.make_log(log, 1, 2)
      command_line.make_log(directory .. "/other", 1, 2)
      command_line.expect(0, run("follow", log, "--state", state, "--print", "--once"))
      local opened = assert(ReplicationState.open(state, {}))
      assert(opened:checkpoint { [0] = damage[3](assert(opened:note(0))) })
      opened:close()
      for _, one in ipairs { log, directory .. "/other" } do
        local result = run("status", state, "--log", one)
        assert_refused(result, "shard 0: ", damage[2], "(" .. damage[1] .. "): nothing was changed")
        assert.equal("", result.out)
      end
      assert_refused(run("follow", log, "--state", state, "--print", "--once"), damage[2], "(" .. damage[1] .. ")")
    end)
  end

  it("takes a state with a note that is not a follower's for one of which nothing is known", function()
    command_line.make_log(log, 1, 2)
    make_state { [0] = 3 }
    local opened = assert(ReplicationState.open(state, {}))
    assert(opened:checkpoint { [0] = "mine" })
    opened:close()
    assert.equal('{"0":{"applied":3,"head":4,"lag":1,"verdict":"unknown"}}\n', look("status", state, "--log", log, "--json"))
  end)

  it("shows a log's heads", function()
    command_line.make_log(log, 3, 2)
    assert.equal("shard  head\n    0     4\n    1     4\n    2     4\n", look("status", log))
    assert.equal('{"0":{"head":4},"1":{"head":4},"2":{"head":4}}\n', look("status", log, "--json"))
  end)

  it("shows a state file's marks, exact to the last digit", function()
    make_state { [0] = 9007199254740993, [7] = 9223372036854775807, [65535] = 0 }
    assert.equal('{"0":{"applied":9007199254740993},"7":{"applied":9223372036854775807},"65535":{"applied":0}}\n',
      look("status", state, "--json"))
    assert.equal(table.concat({
      "shard                    applied",
      "    0      9,007,199,254,740,993",
      "    7  9,223,372,036,854,775,807",
      "65535                          0",
      "",
    }, "\n"), look("status", state))
  end)

  it("compares marks with the heads of a log, whichever has the shard", function()
    command_line.make_log(log, 3, 2)
    make_state { [0] = 1, [1] = 4, [9] = 5 }
    assert.equal('{"0":{"applied":1,"head":4,"lag":3,"verdict":"unknown"},"1":{"applied":4,"head":4,"lag":0,"verdict":"unknown"},'
      .. '"2":{"head":4},"9":{"applied":5,"verdict":"unknown"}}\n', look("status", state, "--log", log, "--json"))
    assert.equal(table.concat({
      "shard  applied  head  lag  verdict  applied of head",
      "    0        1     4    3  unknown  [#####---------------]",
      "    1        4     4    0  unknown  [####################]",
      "    2        -     4    -  -",
      "    9        5     -    -  unknown",
      "",
    }, "\n"), look("status", state, "--log", log))
  end)

  it("shows the marks that a running process has", function()
    local open = assert(ReplicationState.open(state, { 0 }))
    assert(open:advance(0, 77))
    assert.equal('{"0":{"applied":77}}\n', look("status", state, "--json"))
    open:close()
  end)

  if pcall(require, "tidemark.sqlite") then
    it("shows how far a database is", function()
      local wal = assert(Wal.open(log, { shards = { 0, 3 } }))
      assert(wal:append(3, { "a", "b" }))
      assert(wal:close())
      local db = directory .. "/db"
      assert.equal(0, run("follow", log, "--db", db, "--once").code)
      assert.equal('{"3":{"applied":2}}\n', run("status", db, "--json").out)
      local out = run("status", db, "--log", log, "--json").out
      assert.equal('{"0":{"applied":0,"head":0,"lag":0,"verdict":"ok"},"3":{"applied":2,"head":2,"lag":0,"verdict":"ok"}}\n', out)
    end)

    it("says so of a database without a follower", function()
      local db = directory .. "/db"
      local database = assert(require("tidemark.sqlite").open(db))
      assert(database:exec "CREATE TABLE records (x)")
      database:close()
      assert_refused(run("status", db), db .. ": no follower keeps its progress there")
    end)
  else
    pending "of a database: tidemark.sqlite is not built, libsqlite3 is missing"
  end

  it("makes nothing for a wrong path", function()
    assert_refused(run("status", state), state, "no such file")
    assert_refused(run("status", directory), directory .. ": there is no log")
    assert.equal("", command_line.list(directory))
    make_state { [0] = 1 }
    assert_refused(run("status", state, "--log", log), log .. ": there is no log")
    assert_refused(run("status", directory, "--log", log), directory .. ": is a directory")
    assert.equal("state state.live", command_line.list(directory))
    command_line.write(directory .. "/other", ("x"):rep(100))
    assert_refused(run("status", directory .. "/other"), directory .. "/other", "(CORRUPT)")
  end)

  for _, signal in ipairs { "sigint", "sigterm" } do
    it("with --watch goes on showing until " .. signal, function()
      make_state { [0] = 1 }
      local child = command_line.start("status", state, "--json", "--watch", "0.01")
      for _ = 1, 3 do
        assert.equal('{"0":{"applied":1}}', child:read_line(command_line.PATIENCE))
      end
      local open = assert(ReplicationState.open(state, { 0 }))
      assert(open:advance(0, 2))
      repeat
        local line = child:read_line(command_line.PATIENCE)
      until line == '{"0":{"applied":2}}'
      open:close()
      child:signal_with(signal)
      local result = command_line.finish(child)
      assert.same({ 0, "" }, { result.code, result.err })
    end)
  end

  it("with --watch ends on a signal at once, however long the pause", function()
    make_state { [0] = 1 }
    local child = command_line.start("status", state, "--watch", "1000000")
    assert.equal("shard  applied", child:read_line(command_line.PATIENCE))
    child:signal_with "sigint"
    assert.equal(0, command_line.finish(child).code)
  end)

  it("with --watch ends quietly when nobody reads any more", function()
    make_state { [0] = 1 }
    local command = command_line.shell("status", state, "--json", "--watch", "0.01")
    local result = command_line.run_shell(("{ %s; echo $? > '%s/code'; } | head -n 1"):format(command, directory))
    assert.same({ '{"0":{"applied":1}}\n', "" }, { result.out, result.err })
    assert.equal("0\n", command_line.read(directory .. "/code"))
  end)

  it("fails when it cannot write", function()
    make_state { [0] = 1 }
    assert_refused(command_line.run_shell(command_line.shell("status", state) .. " >/dev/full"), "standard output: No space left")
  end)

  it("takes --watch without seconds at the end, and says so where it cannot", function()
    local result = run("status", "--watch", state)
    assert.equal(2, result.code)
    assert.truthy(result.err:find("--watch: seconds above 0 expected", 1, true))
    make_state { [0] = 1 }
    local child = command_line.start("status", state, "--watch")
    assert.equal("shard  applied", child:read_line(command_line.PATIENCE))
    child:signal_with "sigterm"
    assert.equal(0, command_line.finish(child).code)
  end)
end)

describe("tidemark verify", function()
  before_each(before)
  after_each(sandbox.cleanup)

  it("counts what a whole log has", function()
    command_line.make_log(log, 2, 3)
    local bytes = 0
    for shard = 0, 1 do
      bytes = bytes + #command_line.read(("%s/%05d-%020d.wal"):format(log, shard, 1))
    end
    assert.equal(("12 records in 6 batches, 2 segments and 2 shards: %d bytes, all whole\n"):format(bytes), look("verify", log))
  end)

  it("names the file and the offset of damage", function()
    command_line.make_log(log, 2, 3)
    local segment = log .. "/00001-00000000000000000001.wal"
    local at = command_line.read(segment):find("1:3", 1, true)
    command_line.patch(segment, at - 1, "X")
    -- the second batch: each one has a header of 64 bytes and two records of 3 bytes with their ends
    assert_refused(run("verify", log), segment, "offset 78", "(CORRUPT)")
  end)

  for _, command in ipairs { "status", "follow" } do
    it(("(%s) does not take a log that lost its heads for no log"):format(command), function()
      command_line.make_log(log, 1, 1)
      assert(os.remove(log .. "/heads"))
      local more = command == "follow" and { "--state", directory .. "/state", "--print" } or {}
      command_line.expect(1, run(command, log, table.unpack(more)), "segments but no file heads", "(LOST)")
      assert.truthy(run("verify", log).out:find("nobody knows whether records at the end are missing", 1, true))
    end)
  end

  it("tells of what a killed writer left", function()
    command_line.make_log(log, 1, 1)
    local segment = log .. "/00000-00000000000000000001.wal"
    command_line.write(segment, command_line.read(segment) .. "TMWB and some more")
    local out = look("verify", log)
    assert.truthy(out:find("2 records in 1 batch,", 1, true))
    assert.truthy(out:find("18 bytes after the last whole batches", 1, true), out)
  end)

  it("makes nothing where there is no log", function()
    assert_refused(run("verify", log), log)
    assert_refused(run("verify", directory), directory .. ": there is no log")
    assert.equal("", command_line.list(directory))
  end)
end)

describe("tidemark inspect", function()
  before_each(before)
  after_each(sandbox.cleanup)

  local SLOT = { [0] = 4096, [1] = 16781312 } -- where they begin
  local POISONED = 84 -- where the live file says so

  it("shows a state file after each save", function()
    assert(ReplicationState.open(state, { 0, 1 })):close()
    local out = look("inspect", state)
    assert.truthy(out:find("^" .. state:gsub("%p", "%%%0") .. ": state file %x+\nslot  generation  shards\n"), out)
    assert.truthy(out:find("\n   0           1       %d  valid, the last checkpoint\n   1           %-       %-  not valid: "), out)
    make_state { [0] = 5, [1] = 6 }
    make_state { [0] = 7, [1] = 8 }
    out = look("inspect", state)
    assert.truthy(out:find("\n   0           3       2  valid, the last checkpoint\n   1           2       2  valid\n", 1, true), out)
    assert.truthy(out:find("\nlive file: its marks count; generation 3 saved, 3 being saved or last tried\n$"), out)
  end)

  it("shows that there is no live file, or that it does not count", function()
    make_state { [0] = 5 }
    assert(os.rename(state .. ".live", directory .. "/away"))
    assert.truthy(look("inspect", state):find("\nlive file: does not count: there is none\n", 1, true))
    command_line.write(state .. ".live", command_line.read(directory .. "/away"))
    assert.truthy(look("inspect", state):find("\nlive file: does not count: it is a copy\n", 1, true))
  end)

  it("shows a damaged slot, and fails only when both are", function()
    make_state { [0] = 5 }
    make_state { [0] = 6 }
    command_line.patch(state, SLOT[0] + 70, "X")
    local out = look("inspect", state)
    assert.truthy(out:find "\n   0 +3 +%- +not valid: [^\n]+\n   1 +2 +1  valid, the last checkpoint\n", out)
    command_line.patch(state, SLOT[1] + 70, "X")
    local result = run("inspect", state)
    assert_refused(result, state .. ": no slot is valid (CORRUPT)")
    assert.truthy(result.out:find "\n   0 +3 +%- +not valid: [^\n]+\n   1 +2 +%- +not valid: [^\n]+\n", result.out)
  end)

  it("shows that a sync has failed", function()
    make_state { [0] = 5 }
    command_line.patch(state .. ".live", POISONED, "\1")
    assert.truthy(look("inspect", state):find("poisoned: a sync has failed", 1, true))
  end)

  it("refuses what is no state file, and makes nothing", function()
    assert_refused(run("inspect", state), state, "No such file", "(NOT_FOUND)")
    assert_refused(run("inspect", directory), directory)
    command_line.write(state, ("something else "):rep(1000))
    assert_refused(run("inspect", state), state, "not a state file", "(CORRUPT)")
    assert.equal("state", command_line.list(directory))
  end)
end)
