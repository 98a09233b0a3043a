--- tidemark follow, as a user runs it. Kills: cli_kill_spec.lua.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local has_sqlite, sqlite = pcall(require, "tidemark.sqlite")

local run, expect = command_line.run, command_line.expect

-- Makes the pauses between attempts, 25 s altogether, a hundred times shorter.
local FAST_CLOCK = [[
  local clock = require("tidemark.core").clock
  local now, sleep = clock.now, clock.sleep
  clock.now = function() return now() * 100 end
  clock.sleep = function(seconds) sleep(seconds / 100) end
]]

describe("tidemark follow", function()
  local directory, log, state, db

  before_each(function()
    directory = sandbox.tempdir()
    log, state, db = directory .. "/log", directory .. "/state", directory .. "/db"
  end)
  after_each(sandbox.cleanup)

  local function marks()
    local open = assert(ReplicationState.open(state, nil, { readonly = true }))
    local result = open:snapshot()
    open:close()
    return result
  end

  -- The lines of a text by the shard that stands in them: {[shard] = {line, ...}}
  local function by_shard(text, shards)
    local result = {}
    for shard = 0, shards - 1 do
      result[shard] = {}
    end
    for line in text:gmatch "([^\n]*)\n" do
      table.insert(result[tonumber(line:match "^%d+")], line)
    end
    return result
  end

  local function append(...)
    local wal = assert(Wal.open(log, { shards = { 0 } }))
    assert(wal:append(0, { ... }))
    assert(wal:close())
  end

  -- ---- wrong usage ----

  for _, arguments in ipairs {
    {},
    { "--print" },
    { "--exec", "cat" },
    { "--state", "s" },
    { "--state", "s", "--print", "--exec", "cat" },
    { "--state", "s", "--db", "d" },
    { "--db", "d", "--print" },
    { "--db", "d", "--exec", "cat" },
    { "--state", "", "--print" },
    { "--state", "s.live", "--print" },
    { "--state", "s.new", "--print" },
    { "--db", "" },
  } do
    it("refuses the options " .. table.concat(arguments, " ") .. " and makes nothing", function()
      command_line.make_log(log, 1, 1)
      for i, word in ipairs(arguments) do
        arguments[i] = word:gsub("^[sd]%f[%W]", directory .. "/%0")
      end
      expect(2, run("follow", log, "--once", table.unpack(arguments)))
      assert.equal("log", command_line.list(directory))
    end)
  end

  it("makes nothing when there is no log", function()
    for _, path in ipairs { directory .. "/mistyped", directory } do
      expect(1, run("follow", path, "--state", state, "--print"), path .. ": there is no log")
      expect(1, run("follow", path, "--db", db), path .. ": there is no log")
    end
    assert.equal("", command_line.list(directory))
  end)

  it("refuses files that are none of its own", function()
    command_line.make_log(log, 1, 1)
    command_line.write(directory .. "/other", "something else")
    expect(1, run("follow", log, "--state", directory .. "/other", "--print"), directory .. "/other", "state file (CORRUPT)")
    expect(1, run("follow", log, "--state", log .. "/heads", "--print"), "its note is not a follower's")
    assert.equal("something else", command_line.read(directory .. "/other"))
    assert.equal(0, run("verify", log).code)
  end)

  -- ---- into a database ----

  local function rows(sql)
    local database, result = assert(sqlite.open(db, { readonly = true })), {}
    for a, b, c in assert(database:rows(sql)) do
      result[#result + 1] = { a, b, c }
    end
    database:close()
    return result
  end

  if has_sqlite then
    it("keeps each record in a database, and goes on where it was", function()
      local records = command_line.make_log(log, 3, 5)
      expect(0, run("follow", log, "--db", db, "--once"), "30 of 30 applied, lag 0; 15 batches in this run, 0 skipped\n")
      local wal = assert(Wal.open(log, { shards = { 0 } }))
      assert(wal:append(1, { "1:11" }))
      table.insert(records[1], "1:11")
      assert(wal:close())
      expect(0, run("follow", log, "--db", db, "--once"), "31 of 31 applied, lag 0; 1 batch in this run, 0 skipped\n")
      expect(0, run("follow", log, "--db", db, "--once"), "31 of 31 applied, lag 0; 0 batches in this run, 0 skipped\n")
      local expected = {}
      for shard = 0, 2 do
        for seqno, record in ipairs(records[shard]) do
          expected[#expected + 1] = { shard, seqno, record }
        end
      end
      assert.same(expected, rows "SELECT shard, seqno, record FROM records ORDER BY shard, seqno")
    end)

    it("stores text as TEXT and other bytes as BLOB, whole", function()
      append('{"k":"ä"}', "", "a\0b", "\xff\xfe")
      expect(0, run("follow", log, "--db", db, "--once"))
      assert.same({ { '{"k":"ä"}', "text", 10 }, { "", "text", 0 }, { "a\0b", "blob", 3 }, { "\xff\xfe", "blob", 2 } },
        rows "SELECT record, typeof(record), length(CAST(record AS BLOB)) FROM records ORDER BY seqno")
    end)

    it("refuses a file that is no database", function()
      append "a"
      command_line.write(db, ("x"):rep(5000))
      expect(1, run("follow", log, "--db", db, "--once"), db)
      assert.equal(("x"):rep(5000), command_line.read(db))
    end)
  else
    pending "--db: tidemark.sqlite is not built, libsqlite3 is missing"
  end

  -- ---- to standard output ----

  it("prints the records, and only new ones when it is started again", function()
    local records = command_line.make_log(log, 3, 5)
    local out = expect(0, run("follow", log, "--state", state, "--print", "--once"), "30 of 30 applied, lag 0; 15 batches")
    assert.same(records, by_shard(out, 3))
    append "0:11"
    assert.equal("0:11\n", expect(0, run("follow", log, "--state", state, "--print", "--once")))
    assert.equal("", expect(0, run("follow", log, "--state", state, "--print", "--once")))
  end)

  it("ends quietly when nobody reads any more", function()
    local wal = assert(Wal.open(log, { shards = { 0 }, sync = false }))
    for _ = 1, 20 do
      assert(wal:append(0, { ("x"):rep(50000) }))
    end
    assert(wal:close())
    local command = command_line.shell("follow", log, "--state", state, "--print")
    local result = command_line.run_shell(("{ %s; echo $? > '%s/code'; } | head -c 1"):format(command, directory))
    assert.equal("x", result.out)
    assert.equal("0\n", command_line.read(directory .. "/code"))
    assert.truthy(result.err:find "^%[[#-]+%] %d+ of 20 applied, lag %d+; %d+ batch[es]* in this run, 0 skipped\n$", result.err)
    assert(marks()[0] < 20)
  end)

  it("marks nothing as applied that could not be written", function()
    command_line.make_log(log, 1, 3)
    local command = command_line.shell("follow", log, "--state", state, "--print")
    expect(1, command_line.run_shell(command .. " >/dev/full"), "standard output: No space left")
    expect(1, command_line.run_shell(command .. " >&-"), "standard output: Bad file descriptor")
    assert.same({ [0] = 0 }, marks())
    assert.equal("0:1\n0:2\n0:3\n0:4\n0:5\n0:6\n", run("follow", log, "--state", state, "--print", "--once").out)
  end)

  it("prints what a running writer appends, as it comes", function()
    local writer = command_line.start("append", log, "--batch", "1000")
    command_line.wait_until("the log", function()
      return Wal.source(log)
    end)
    local follower = command_line.start("follow", log, "--state", state, "--print")
    for i = 1, 5 do
      writer:write("record " .. i)
      assert.equal("record " .. i, follower:read_line(command_line.PATIENCE))
    end
    writer:close_input()
    assert.equal(0, command_line.finish(writer).code)
    append "of another writer"
    assert.equal("of another writer", follower:read_line(command_line.PATIENCE))
    follower:signal_with "sigint"
    expect(0, command_line.finish(follower), "6 of 6 applied")
  end)

  for _, signal in ipairs { "sigint", "sigterm" } do
    it("ends well on " .. signal .. " with its marks durable", function()
      command_line.make_log(log, 2, 3)
      local child = command_line.start("follow", log, "--state", state, "--print")
      for _ = 1, 12 do
        child:read_line(command_line.PATIENCE)
      end
      child:signal_with(signal)
      expect(0, command_line.finish(child), "12 of 12 applied, lag 0; 6 batches in this run, 0 skipped\n")
      assert(os.remove(state .. ".live")) -- as after a restart of the machine: the checkpoint alone counts
      assert.same({ [0] = 6, [1] = 6 }, marks())
    end)
  end

  it("refuses to be the second one on a state", function()
    append "a"
    local child = command_line.start("follow", log, "--state", state, "--print")
    child:read_line(command_line.PATIENCE)
    expect(1, run("follow", log, "--state", state, "--print", "--once"), "(LOCKED)", "end the other one first")
    child:signal_with "sigterm"
    assert.equal(0, command_line.finish(child).code)
  end)

  -- ---- to a command ----

  it("gives a command each batch, with its shard and seqnos", function()
    command_line.make_log(log, 2, 2)
    local command = ("{ echo $TIDEMARK_SHARD $TIDEMARK_FIRST_SEQNO $TIDEMARK_LAST_SEQNO; cat; } >> '%s/out'"):format(directory)
    expect(0, run("follow", log, "--state", state, "--exec", command, "--once"))
    assert.equal("0 1 2\n0:1\n0:2\n1 1 2\n1:1\n1:2\n0 3 4\n0:3\n0:4\n1 3 4\n1:3\n1:4\n", command_line.read(directory .. "/out"))
    expect(0, run("follow", log, "--state", state, "--exec", "exit 1", "--once"), "0 batches in this run")
  end)

  it("judges a command that ends without reading by its exit code alone", function()
    local wal = assert(Wal.open(log, { shards = { 0 } }))
    -- a pipe holds 65,536 bytes: with a buffer the last ones would be written as the pipe is closed, when nobody reads any more
    for _ = 1, 5 do
      assert(wal:append(0, { ("x"):rep(65635) }))
      assert(wal:append(0, { ("x"):rep(100000), ("y"):rep(1000) }))
    end
    assert(wal:append(0, { "small" }))
    assert(wal:close())
    local result = run("follow", log, "--state", state, "--exec", "exec <&-; exit 0", "--once")
    expect(0, result, "16 of 16 applied, lag 0; 11 batches")
    assert.is_nil(result.err:find("trying again", 1, true))
    wal = assert(Wal.open(log, { shards = { 0 } }))
    assert(wal:append(0, { ("x"):rep(65635) }))
    assert(wal:close())
    local words = command_line.words(FAST_CLOCK, "follow", log, "--state", state, "--exec", "exec <&-; exit 7", "--once")
    result = command_line.run_words(words)
    expect(3, result, "the command ended with exit code 7 (APPLY_FAILED)")
    assert.is_nil(result.err:find("Broken pipe", 1, true))
  end)

  it("runs a command again that failed once", function()
    command_line.make_log(log, 1, 3)
    local command = ("cd '%s'; test -e failed || { touch failed; exit 5; }; cat >> out"):format(directory)
    expect(0, run("follow", log, "--state", state, "--exec", command, "--once"), "records 1..2", "exit code 5", "trying again")
    assert.equal("0:1\n0:2\n0:3\n0:4\n0:5\n0:6\n", command_line.read(directory .. "/out"))
  end)

  it("stops a shard whose command keeps failing; the others are complete", function()
    local records = command_line.make_log(log, 3, 4)
    local command = ("test $TIDEMARK_SHARD-$TIDEMARK_FIRST_SEQNO != 1-5 && cat >> '%s/out'"):format(directory)
    local words = command_line.words(FAST_CLOCK, "follow", log, "--state", state, "--exec", command, "--once")
    expect(3, command_line.run_words(words),
      "shard 1 has stopped, failed: shard 1: records 5..6: apply failed: the command ended with exit code 1 (APPLY_FAILED)")
    assert.same({ [0] = 8, [1] = 4, [2] = 8 }, marks())
    records[1] = { table.unpack(records[1], 1, 4) }
    assert.same(records, by_shard(command_line.read(directory .. "/out"), 3))
  end)

  it("finishes the command that runs when it is asked to end", function()
    command_line.make_log(log, 1, 2)
    local command = ("cd '%s'; touch began; n=0; until test -e go || test $n -gt 600; do sleep 0.1; n=$((n + 1)); done; cat >> out"):format(
      directory)
    local child = command_line.start("follow", log, "--state", state, "--exec", command)
    command_line.wait_until("the command", function()
      return command_line.read(directory .. "/began")
    end)
    child:signal_with "sigterm"
    command_line.write(directory .. "/go", "")
    expect(0, command_line.finish(child), "2 of 4 applied, lag 2; 1 batch")
    assert.equal("0:1\n0:2\n", command_line.read(directory .. "/out"))
    assert.same({ [0] = 2 }, marks())
  end)

  it("calls it no failure when Ctrl-C ends the command too", function()
    command_line.make_log(log, 1, 1)
    local command = ("touch '%s/began'; kill -INT $PPID; kill -INT $$"):format(directory)
    local result = run("follow", log, "--state", state, "--exec", command)
    assert.equal(0, result.code)
    assert.equal("[--------------------] 0 of 2 applied, lag 2; 0 batches in this run, 0 skipped\n", result.err)
    assert.same({ [0] = 0 }, marks())
  end)

  -- ---- damage ----

  it("stops a shard at a damaged segment, says where, and completes the others", function()
    local records = command_line.make_log(log, 3, 4)
    local segment = log .. "/00001-00000000000000000001.wal"
    local at = command_line.read(segment):find("1:5", 1, true)
    command_line.patch(segment, at - 1, "9")
    local result = run("follow", log, "--state", state, "--print", "--once")
    expect(3, result, "shard 1 has stopped, corrupt", segment, "offset", "(CORRUPT)")
    records[1] = { table.unpack(records[1], 1, 4) }
    assert.same(records, by_shard(result.out, 3))
    assert.same({ [0] = 8, [1] = 4, [2] = 8 }, marks())
  end)

  it("stops when its state file is removed under it", function()
    append "a"
    expect(3, run("follow", log, "--state", state, "--exec", ("rm '%s'"):format(state), "--once"), "shard 0 has stopped", "(REPLACED)")
  end)

  it("fails when its last checkpoint does", function()
    append "a"
    local failing = [[
      local ReplicationState = require "tidemark.replication_state"
      local checkpoint = ReplicationState.checkpoint
      function ReplicationState:checkpoint(notes)
        if notes then -- of a new epoch: that one works
          return checkpoint(self, notes)
        end
        return nil, "the disk does not answer", "IO"
      end
    ]]
    local words = command_line.words(failing, "follow", log, "--state", state, "--print", "--once")
    expect(1, command_line.run_words(words), "checkpoint failed: the disk does not answer (IO)\n")
  end)
end)
