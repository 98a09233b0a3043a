--- Two histories that carried the same numbers were confused: a log that lost records, was restored from a copy, or was deleted and made
--- again gave a follower records that it took for its own, or for duplicates, with lag 0 and exit code 0.

local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local has_sqlite = pcall(require, "tidemark.sqlite")

local run, run_with, expect = command_line.run, command_line.run_with, command_line.expect

-- Every kind of target that the command line has.
local TARGETS = { "--state" }
if has_sqlite then
  TARGETS[2] = "--db"
end

describe("a follower on the command line", function()
  local directory, log

  before_each(function()
    directory = sandbox.tempdir()
    log = directory .. "/log"
  end)
  after_each(sandbox.cleanup)

  local function sh(text, ...)
    assert(os.execute(text:format(...)))
  end

  -- Appends lines "FIRST".."LAST", with a word before them, as one batch.
  local function append(word, first, last, ...)
    local lines = {}
    for i = first, last do
      lines[#lines + 1] = ("%s%d\n"):format(word, i)
    end
    expect(0, run_with(table.concat(lines), "append", log, ...))
  end

  local function target(kind)
    return directory .. "/target" .. kind
  end

  -- Follows the log once into the target of that kind. Records of a state file go to the file target--state.out.
  local function follow(kind)
    if kind == "--db" then
      return run("follow", log, "--db", target(kind), "--once")
    end
    return run("follow", log, "--state", target(kind), "--exec", ("cat >> '%s.out'"):format(target(kind)), "--once")
  end

  -- What the target has of shard 0, as one text.
  local function applied(kind)
    if kind == "--state" then
      return (command_line.read(target(kind) .. ".out") or ""):gsub("\n", " ")
    end
    local db = assert(require("tidemark.sqlite").open(target(kind), { readonly = true }))
    local records = {}
    for record in assert(db:rows "SELECT record FROM records WHERE shard = 0 ORDER BY seqno") do
      records[#records + 1] = record .. " "
    end
    db:close()
    return table.concat(records)
  end

  local function follow_all(code, ...)
    for _, kind in ipairs(TARGETS) do
      expect(code, follow(kind), ...)
    end
  end

  local function assert_applied(expected)
    for _, kind in ipairs(TARGETS) do
      assert.equal(expected, applied(kind))
    end
  end

  -- What status says of each target: verdict and exit code, and no lag unless the histories are the same.
  local function assert_verdict(verdict)
    for _, kind in ipairs(TARGETS) do
      local result = run("status", target(kind), "--log", log, "--json")
      assert.equal(verdict, result.out:match '"verdict":"(.-)"', result.out .. result.err)
      local fine = verdict == "ok" or verdict == "unknown"
      assert.equal(fine and 0 or 3, result.code)
      assert.equal(fine, result.out:find('"lag":', 1, true) ~= nil)
    end
  end

  it("refuses the records of a leader that went on after a loss", function()
    append("r", 1, 2)
    append("r", 3, 4)
    follow_all(0)
    assert_verdict "ok"
    assert(os.remove(log .. "/00000-00000000000000000003.wal"))
    local lost = run_with("X3\nX4\n", "append", log)
    expect(1, lost, "(LOST)", "--accept-loss 0:2")
    sh("rm '%s/heads'", log) -- what an older version said to do
    lost = run_with("X3\nX4\n", "append", log)
    expect(1, lost, "(LOST)", "--accept-loss 0:2")
    append("X", 3, 4, "--accept-loss", "0:2")
    append("X", 5, 5)
    follow_all(3, "DIVERGED", "record 2")
    assert_verdict "diverged"
    assert_applied "r1 r2 r3 r4 "
  end)

  for _, case in ipairs {
    { last = 10, verdict = "ahead_of_source", how = "before the mark, with nothing else" },
    { last = 15, verdict = "diverged", how = "before the mark" },
    { last = 20, verdict = "diverged", how = "at the mark" },
    { last = 25, verdict = "diverged", how = "after the mark" },
  } do
    it("refuses a leader that was restored from a copy and ends " .. case.how, function()
      append("r", 1, 10)
      sh("cp -a '%s' '%s/backup'", log, directory)
      append("r", 11, 20)
      follow_all(0)
      sh("rm -rf '%s'; mv '%s/backup' '%s'", log, directory, log)
      if case.last > 10 then
        append("new", 11, case.last)
      end
      follow_all(3, case.verdict == "diverged" and "DIVERGED" or "20")
      follow_all(3)
      assert_verdict(case.verdict)
      for _, kind in ipairs(TARGETS) do
        assert.is_nil(applied(kind):find "new")
      end
      if case.verdict == "ahead_of_source" then
        append("new", 11, 11) -- another record 11
        follow_all(3, "DIVERGED", "record 10")
        assert_verdict "diverged"
      end
    end)
  end

  it("goes on when the leader's records come back", function()
    append("r", 1, 10)
    sh("cp -a '%s' '%s/backup'", log, directory)
    append("r", 11, 20)
    follow_all(0)
    sh("mv '%s' '%s/whole'; mv '%s/backup' '%s'", log, directory, directory, log)
    follow_all(3)
    assert_verdict "ahead_of_source"
    sh("rm -rf '%s'; mv '%s/whole' '%s'", log, directory, log)
    append("r", 21, 22)
    follow_all(0)
    assert_verdict "ok"
  end)

  it("refuses a log that was deleted and made again, however long it is", function()
    append("r", 1, 5)
    follow_all(0)
    for _, last in ipairs { 1, 5, 9 } do
      sh("rm -rf '%s'", log)
      append("other", 1, last)
      follow_all(3, "FOREIGN")
      assert_verdict "foreign"
      assert_applied "r1 r2 r3 r4 r5 "
    end
  end)

  it("takes no record of another log, also not in a shard of which it has nothing", function()
    local wal = assert(Wal.open(log, { shards = { 0, 1, 2 } }))
    assert(wal:append(0, { "r1" }))
    assert(wal:close())
    follow_all(0)
    sh("rm -rf '%s'", log)
    wal = assert(Wal.open(log, { shards = { 0, 1, 2 } }))
    for shard = 0, 2 do
      assert(wal:append(shard, { "other" }))
    end
    assert(wal:close())
    follow_all(3, "FOREIGN")
    assert_applied "r1 "
    if has_sqlite then
      local db = assert(require("tidemark.sqlite").open(target "--db", { readonly = true }))
      for count in assert(db:rows "SELECT count(*) FROM records") do
        assert.equal(1, count)
      end
      db:close()
    end
    for _, kind in ipairs(TARGETS) do
      assert.equal(3, run("status", target(kind), "--log", log).code)
    end
  end)

  it("goes on with a leader whose clock is behind its predecessor's", function()
    append("r", 1, 2, "--epoch", ("%d"):format((os.time() + 3600) << 30))
    append("r", 3, 4)
    follow_all(0)
    append("r", 5, 6)
    follow_all(0)
    assert_applied "r1 r2 r3 r4 r5 r6 "
    assert_verdict "ok"
  end)

  it("takes the largest epoch, and the log goes on", function()
    append("r", 1, 3, "--epoch", ("%d"):format((1 << 62) - 1))
    append("r", 4, 4)
    follow_all(0)
    assert_applied "r1 r2 r3 r4 "
  end)
end)
